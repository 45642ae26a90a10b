"""Write what a collection holds: articles for labelling and corpus, ledger, quarantine, counts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from presseco.collection import Collection, Result
from presseco.errors import SourceError
from presseco.files import replacing, write_text
from presseco.rights import ledger_row, shareable
from presseco.source import Source
from presseco.stages import STAGES
from presseco.taxonomy import Taxonomy

FILES = ("articles.jsonl", "ledger.jsonl", "shareable.jsonl", "quarantine.jsonl")


@dataclass
class Counts:
    """How many articles entered the first stage, left the last, and why others did not."""

    read: int = 0
    kept: int = 0
    labelled: int = 0
    stories: int = 0
    aside: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def quarantined(self) -> int:
        """Return how many articles were set aside, over all stages."""
        return sum(n for reasons in self.aside.values() for n in reasons.values())

    def rows(self) -> Iterator[tuple[str, int, int, int, str]]:
        """Yield `(stage, in, aside, out, reasons)` for every stage."""
        inside = self.read
        for stage in STAGES:
            reasons = self.aside.get(stage, {})
            lost = sum(reasons.values())
            told = ", ".join(f"{r} {n:,}" for r, n in sorted(reasons.items(), key=lambda x: -x[1]))
            yield stage, inside, lost, inside - lost, told
            inside -= lost


def hand_over(
    collection: Collection, folder: Path, source: Source, taxonomy: Taxonomy, labels: Path | None
) -> Counts:
    """Write the four files and summary.json into `folder`; all of them or none a file."""
    given = read_labels(labels, taxonomy) if labels else {}
    counts, aside = Counts(), defaultdict[str, Counter[str]](Counter)
    stories: set[str] = set()
    with ExitStack() as stack:
        out = {
            name: stack.enter_context(
                stack.enter_context(replacing(folder / name)).open("w", encoding="utf-8")
            )
            for name in FILES
        }
        for result in collection.results():
            counts.read += 1
            if result.reason:
                aside[result.stage][result.reason] += 1
                out["quarantine.jsonl"].write(_line(_reason(result)))
                continue
            row = _row(result, given)
            entry = ledger_row(row, result.place, source.name, source.rights)
            row["rights"] = row.get("rights") or source.rights.licence
            counts.kept += 1
            counts.labelled += any(row.get(t) for t in taxonomy.names) or "out_of_domain" in row
            stories.add(row.get("story", row["id"]))
            out["articles.jsonl"].write(_line(row))
            out["ledger.jsonl"].write(_line(entry))
            out["shareable.jsonl"].write(_line(shareable(row, entry)))
    counts.stories, counts.aside = len(stories), {k: dict(v) for k, v in aside.items()}
    write_text(folder / "summary.json", json.dumps(asdict(counts), indent=1, ensure_ascii=False))
    return counts


def read_labels(path: Path, taxonomy: Taxonomy) -> dict[str, dict[str, Any]]:
    """Return labels by article id from a .jsonl with `id` and any of the tasks."""
    out: dict[str, dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(file)
    except OSError as e:
        raise SourceError(f"labels: {path}: cannot be read: {e.strerror}") from None
    for number, line in enumerate(lines, 1):
        where = f"labels: {path}:{number}"
        try:
            row = json.loads(line)
            out[row["id"]] = {
                t: taxonomy.check(t, row[t], where) for t in taxonomy.names if row.get(t)
            }
        except (ValueError, TypeError, KeyError) as e:
            raise SourceError(f"{where}: expected a JSON object with an id ({e})") from None
        for key in ("out_of_domain", "annotations"):
            if row.get(key):
                out[row["id"]][key] = row[key]
    return out


def _row(result: Result, given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(result.article)
    if result.story:
        row["story"] = result.story
    return row | given.get(result.id, {})


def _reason(result: Result) -> dict[str, Any]:
    row = {
        "where": result.place,
        "stage": result.stage,
        "reason": result.reason,
        "detail": result.detail,
    }
    return row | ({"id": result.id} if result.id else {})


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
