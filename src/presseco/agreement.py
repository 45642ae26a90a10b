"""How well annotators agree: raw share and Cohen's kappa, a task and a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from presseco.article import Article


@dataclass(frozen=True)
class Agreement:
    """Agreement of two label sequences; `by_class` is the F1 of one against the other."""

    task: str
    n: int
    raw: float
    kappa: float
    interval: tuple[float, float]
    by_class: dict[str, float]


def kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Cohen's kappa; 1.0 when both used one and the same label throughout."""
    a, b = np.asarray(first), np.asarray(second)
    observed = float((a == b).mean())
    labels = sorted({*first, *second})
    chance = float(sum((a == x).mean() * (b == x).mean() for x in labels))
    return 1.0 if chance == 1.0 else (observed - chance) / (1 - chance)


def agree(task: str, first: Sequence[str], second: Sequence[str], seed: int = 0) -> Agreement:
    """Compare two annotators' labels of the same articles; 95 % bootstrap interval of kappa."""
    a, b = np.asarray(first), np.asarray(second)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(500):
        pick = rng.integers(0, len(a), len(a))
        draws.append(kappa(a[pick].tolist(), b[pick].tolist()))
    low, high = np.quantile(draws, [0.025, 0.975])
    by_class = {}
    for label in sorted({*first, *second}):
        both = float(((a == label) & (b == label)).sum())
        by_class[label] = 2 * both / float((a == label).sum() + (b == label).sum())
    return Agreement(
        task,
        len(a),
        float((a == b).mean()),
        kappa(first, second),
        (float(low), float(high)),
        by_class,
    )


def annotator_pairs(articles: Sequence[Article], task: str) -> tuple[list[str], list[str]]:
    """Return the writer's and the second annotator's labels of all articles that have both."""
    first, second = [], []
    for a in articles:
        given = {x.get("annotator"): x.get(task) for x in a.annotations}
        if given.get("writer") and given.get("second"):
            first.append(str(given["writer"]))
            second.append(str(given["second"]))
    return first, second
