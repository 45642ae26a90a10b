"""How good is each source of labels: coverage, overlap, conflict, accuracy, and which parts harm."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from presseco.taxonomy import Taxonomy
from presseco.vote import Vote

#: A part with fewer hits on gold is not called harmful: chance alone explains its errors.
_ENOUGH = 8
#: Name of the combined labels among the sources.
ALL = "consensus"
#: One article's votes: `{source: {task: vote}}`.
Given = Mapping[str, Mapping[str, Vote]]


@dataclass(frozen=True)
class SourceRow:
    """One source on one task. Shares are of all articles; accuracies of those with gold.

    `overlap`: another source votes too; `conflict`: one of them says something else. `accuracy`
    has a value for each split that has gold, and `n` on how many votes it rests.
    """

    task: str
    source: str
    coverage: float
    overlap: float
    conflict: float
    accuracy: dict[str, float]
    n: dict[str, int]


@dataclass(frozen=True)
class PartRow:
    """A pattern, seed or company: hits, and how often its label was right where gold is known.

    `prior` is the share of its label among the gold labels: a part below it misleads.
    """

    source: str
    task: str
    part: str
    label: str
    hits: int
    n: int
    right: float
    prior: float

    @property
    def verdict(self) -> str:
        """Return `dead`, `harmful` or an empty string."""
        if not self.hits:
            return "dead"
        return "harmful" if self.n >= _ENOUGH and self.right < self.prior else ""


def source_rows(
    given: Sequence[Given],
    gold: Sequence[Mapping[str, str | None]],
    splits: Sequence[str],
    taxonomy: Taxonomy,
) -> list[SourceRow]:
    """Return one row a task and source; `splits` names each article's split ("" for none)."""
    names = list(dict.fromkeys(s for g in given for s in g))
    rows = []
    for task in taxonomy.names:
        votes = [{s: v[task].label for s, v in g.items() if task in v} for g in given]
        for name in names:
            if any(name in v for v in votes):
                rows.append(_row(task, name, votes, gold, splits))
    return rows


def _row(
    task: str,
    name: str,
    votes: Sequence[Mapping[str, str]],
    gold: Sequence[Mapping[str, str | None]],
    splits: Sequence[str],
) -> SourceRow:
    own = [i for i, v in enumerate(votes) if name in v]
    others = [{x for s, x in votes[i].items() if s not in (name, ALL)} for i in own]
    right: dict[str, list[bool]] = defaultdict(list)
    for i in own:
        if truth := gold[i].get(task):
            right[splits[i] or "gold"].append(votes[i][name] == truth)
    return SourceRow(
        task,
        name,
        len(own) / max(len(votes), 1),
        sum(map(bool, others)) / max(len(votes), 1),
        sum(bool(o - {votes[i][name]}) for i, o in zip(own, others, strict=True))
        / max(len(votes), 1),
        {s: float(np.mean(r)) for s, r in right.items()},
        {s: len(r) for s, r in right.items()},
    )


def part_rows(
    source: str,
    known: Iterable[tuple[str, str, str]],
    hits: Sequence[Iterable[tuple[str, str, str]]],
    gold: Sequence[Mapping[str, str | None]],
) -> list[PartRow]:
    """Judge a source's parts, each `(part, task, label)`: all `known`, and the `hits` an article.

    Give the articles that are not the test's: what is mended by this report must not be fitted on
    the texts that judge it.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    seen: Counter[tuple[str, str, str]] = Counter()
    right: Counter[tuple[str, str, str]] = Counter()
    for found, truth in zip(hits, gold, strict=True):
        for part in set(found):
            counts[part] += 1
            if answer := truth.get(part[1]):
                seen[part] += 1
                right[part] += answer == part[2]
    prior = _priors(gold)
    return [
        PartRow(
            source,
            task,
            part,
            label,
            counts[part, task, label],
            seen[part, task, label],
            right[part, task, label] / max(seen[part, task, label], 1),
            prior.get((task, label), 0.0),
        )
        for part, task, label in dict.fromkeys([*known, *counts])
    ]


def _priors(gold: Sequence[Mapping[str, str | None]]) -> dict[tuple[str, str], float]:
    counts = Counter((t, x) for g in gold for t, x in g.items() if x)
    total = Counter(t for t, _ in counts.elements())
    return {(t, x): n / total[t] for (t, x), n in counts.items()}


def by_function(rows: Sequence[PartRow]) -> list[PartRow]:
    """Return patterns (`function:expression`) summed to their functions, hits added."""
    groups: dict[tuple[str, str, str, str], list[PartRow]] = defaultdict(list)
    for r in rows:
        groups[r.source, r.task, r.part.split(":", 1)[0], r.label].append(r)
    return [
        PartRow(
            *key[:2],
            key[2],
            key[3],
            sum(r.hits for r in group),
            sum(r.n for r in group),
            sum(r.right * r.n for r in group) / max(sum(r.n for r in group), 1),
            group[0].prior,
        )
        for key, group in groups.items()
    ]


def source_table(rows: Sequence[SourceRow]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the cells of the table of sources."""
    order = ("gold", "train", "validation", "test")
    splits = [s for s in order if any(s in r.accuracy for r in rows)]
    head = ["task", "source", "coverage", "overlap", "conflict", *(f"right: {s}" for s in splits)]
    cells = []
    for r in rows:
        shares = [f"{x:.3f}" for x in (r.coverage, r.overlap, r.conflict)]
        right = [f"{r.accuracy[s]:.3f} of {r.n[s]:,}" if s in r.accuracy else "–" for s in splits]
        cells.append([r.task, r.source, *shares, *right])
    return head, cells


def part_table(rows: Sequence[PartRow]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the cells of a table of parts."""
    head = ["part", "task", "label", "hits", "right", "prior"]
    cells = [
        [r.part, r.task, r.label, f"{r.hits:,}", f"{r.right:.2f}", f"{r.prior:.2f}"] for r in rows
    ]
    return head, cells


def markdown(table: tuple[list[str], list[list[str]]]) -> str:
    """Return a table as Markdown; bars in cells are escaped."""
    head, cells = table
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def as_json(rows: Iterable[SourceRow | PartRow]) -> list[dict[str, Any]]:
    """Return rows as JSON objects; parts with their verdict."""
    return [vars(r) | ({"verdict": r.verdict} if isinstance(r, PartRow) else {}) for r in rows]
