"""Several people's annotations: how well they agree, what is settled, what a third must decide."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from presseco.agreement import Agreement, agree
from presseco.article import OUT_OF_DOMAIN
from presseco.labelstudio import Annotation


@dataclass(frozen=True)
class Settled:
    """One article's outcome: labels by task, and the tasks that are `open`, with their answers."""

    id: str
    labels: dict[str, str | None]
    open: dict[str, list[str]]
    out_of_domain: bool
    annotators: int


def settle(annotations: Iterable[Annotation], tasks: Sequence[str]) -> list[Settled]:
    """Return the outcome of every article, in order of first appearance.

    A task is settled by agreement of all who answered it, or, once three or more have, by more than
    half of them. One answer alone settles nothing: it stays a label, with `annotators` = 1.
    """
    by_article: dict[str, list[Annotation]] = defaultdict(list)
    for a in annotations:
        by_article[a.id].append(a)
    return [_settle(name, given, tasks) for name, given in by_article.items()]


def _settle(name: str, given: list[Annotation], tasks: Sequence[str]) -> Settled:
    labels: dict[str, str | None] = {}
    open_: dict[str, list[str]] = {}
    for task in tasks:
        answers = [OUT_OF_DOMAIN if a.out_of_domain else a.labels.get(task) for a in given]
        found = [x for x in answers if x]
        label = _majority(found)
        labels[task] = None if label == OUT_OF_DOMAIN else label
        if found and label is None:
            open_[task] = sorted(set(found))
    outside = not open_ and _majority([str(a.out_of_domain) for a in given]) == "True"
    return Settled(name, labels, open_, outside, len({a.annotator for a in given}))


def _majority(answers: Sequence[str]) -> str | None:
    if not answers:
        return None
    label, count = Counter(answers).most_common(1)[0]
    return (
        label if count == len(answers) or (len(answers) > 2 and 2 * count > len(answers)) else None
    )


def queue(settled: Sequence[Settled], seed: int = 0) -> list[dict[str, Any]]:
    """Return what a third person must decide: id and the answers in doubt, in random order.

    Who gave which answer is left out, and the order is shuffled: the third shall read the text.
    """
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for s in settled:
        if s.open:
            doubt = {t: rng.sample(x, len(x)) for t, x in s.open.items()}
            rows.append({"id": s.id, "doubt": doubt})
    rng.shuffle(rows)
    return rows


@dataclass(frozen=True)
class Pair:
    """Agreement of two people on the articles that both labelled."""

    first: str
    second: str
    agreement: Agreement


def pairs(annotations: Iterable[Annotation], tasks: Sequence[str], least: int = 10) -> list[Pair]:
    """Return the agreement of every two people a task, where they share `least` articles or more."""
    by_person: dict[str, dict[str, Mapping[str, str | None]]] = defaultdict(dict)
    for a in annotations:
        outside = dict.fromkeys(tasks, OUT_OF_DOMAIN)
        by_person[a.annotator][a.id] = outside if a.out_of_domain else a.labels
    out = []
    for one, two in combinations(sorted(by_person), 2):
        for task in tasks:
            both = [
                (str(x), str(y))
                for i in sorted(by_person[one].keys() & by_person[two].keys())
                if (x := by_person[one][i].get(task)) and (y := by_person[two][i].get(task))
            ]
            if len(both) >= least:
                first, second = zip(*both, strict=True)
                out.append(Pair(one, two, agree(task, first, second)))
    return out
