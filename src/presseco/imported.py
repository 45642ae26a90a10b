"""Votes of people: annotations from other tools, a row an annotator and article."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from presseco.article import Article
from presseco.errors import SourceError
from presseco.taxonomy import Taxonomy
from presseco.vote import Vote


@dataclass(frozen=True)
class Annotator:
    """One person as a source; what they left empty they abstained on."""

    person: str
    labels: dict[str, dict[str, str]] = field(repr=False)

    @property
    def name(self) -> str:
        """Return the word that reports use."""
        return f"annotator:{self.person}"

    @property
    def stamp(self) -> str:
        """Return a digest of all labels."""
        return hashlib.sha256(json.dumps(self.labels, sort_keys=True).encode()).hexdigest()[:16]

    def vote(self, articles: Sequence[Article]) -> list[list[Vote]]:
        """Return what the person said of each article; people say nothing of their confidence."""
        return [[Vote(t, x, 1.0) for t, x in self.labels.get(a.id, {}).items()] for a in articles]


def read_annotations(paths: Sequence[Path], taxonomy: Taxonomy) -> list[Annotator]:
    """Return the annotators of .jsonl and .csv files with `annotator`, `id` and tasks.

    Raises `SourceError`, or `TaxonomyError` on an unknown label, naming file and line. The same
    person with two answers on one article is refused: which one holds?
    """
    labels: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for path in paths:
        for where, row in _rows(path):
            person, name = row.get("annotator"), row.get("id")
            if not isinstance(person, str) or not isinstance(name, str) or not (person and name):
                raise SourceError(f"{where}: expected annotator, id and labels; found {list(row)}")
            given = {t: taxonomy.check(t, row[t], where) for t in taxonomy.names if row.get(t)}
            if labels[person].setdefault(name, given) != given:
                raise SourceError(f"{where}: {person} labelled {name} twice, differently")
    return [Annotator(person, dict(given)) for person, given in sorted(labels.items())]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as e:
        raise SourceError(f"annotations: {path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise SourceError(f"annotations: {path}: not UTF-8. Convert it to UTF-8.") from None
    if path.suffix == ".csv":
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
            yield f"annotations: {path}:{number}", row
        return
    for number, line in enumerate(io.StringIO(text), 1):
        where = f"annotations: {path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as e:
            raise SourceError(f"{where}: broken JSON: {e}") from None
        if not isinstance(row, dict):
            raise SourceError(f"{where}: expected an object with annotator, id and labels")
        yield where, row
