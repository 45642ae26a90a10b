"""The label model: what the sources say together, by Dawid and Skene's method (1979), smoothed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from presseco.evaluate import Floats, Ints

#: A source's votes in each of these ranges of confidence are counted as a worker of their own: a
#: source that is sure makes other errors than the same source guessing.
BANDS = (0.5, 0.65, 0.8)
#: Before any vote is compared, a worker is taken to be right as often as its votes say they are
#: (their mean confidence), and that belief weighs as much as this many votes a label: with few
#: sources, agreement alone tells little, and a source that is alone agrees with itself.
_CLAIMED = 300.0
#: A confidence of 1 claims nothing that was measured (people): they are judged by the others, from
#: this share of right answers on, which weighs as much as so many votes a label.
_RIGHT, _UNCLAIMED = 0.6, 6.0
#: Confidences beyond these are believed no further.
_LEAST, _MOST = 0.1, 0.95
#: Rounds of the EM algorithm, and the largest change of a probability that ends it earlier.
_ROUNDS = 100
_STILL = 1e-4


@dataclass(frozen=True)
class Consensus:
    """Posteriors of all articles, shape (articles, labels), and how often each worker is right.

    Articles without a vote have the labels' shares as their posterior; `voted` tells them apart.
    """

    posterior: Floats
    voted: np.ndarray
    reliability: dict[str, float]

    def label(self, article: int, least: float) -> tuple[int, float] | None:
        """Return an article's label and its confidence, or None under `least`."""
        best = int(self.posterior[article].argmax())
        confidence = float(self.posterior[article, best])
        return (best, confidence) if self.voted[article] and confidence >= least else None


def agree_on(
    votes: Sequence[Mapping[str, tuple[int, float]]], labels: int, *, weight: float = 1.0
) -> Consensus:
    """Combine the votes of one task: for each article, `source: (label index, confidence)`.

    Every source, once in each range of confidence, has a matrix of how often it says which label
    for which true one. It starts from what the confidence claims; matrices and true labels are then
    estimated in turns. Nothing but the votes is used, no gold label. `weight` multiplies the
    beliefs held before; 0 is the method as published.
    """
    item, worker, said, sure, names = _flat(votes)
    n, w = len(votes), len(names)
    posterior = _majority(item, said, n, labels)
    voted = np.zeros(n, dtype=bool)
    voted[item] = True
    prior = weight * _prior(worker, sure, w, labels)
    for _ in range(_ROUNDS):
        matrix = _matrices(posterior, item, worker, said, prior)
        shares = (
            (posterior[voted].sum(axis=0) + min(weight, 1.0)) if voted.any() else np.ones(labels)
        )
        shares = np.maximum(shares / shares.sum(), 1e-9)
        logs = np.tile(np.log(shares), (n, 1))
        np.add.at(logs, item, np.log(np.maximum(matrix, 1e-9))[worker, :, said])
        new = np.exp(logs - logs.max(axis=1, keepdims=True))
        new /= new.sum(axis=1, keepdims=True)
        change = float(np.abs(new - posterior)[voted].max()) if voted.any() else 0.0
        posterior = new
        if change < _STILL:
            break
    right = _right(posterior, item, worker, said, names)
    return Consensus(posterior, voted, right)


def _flat(
    votes: Sequence[Mapping[str, tuple[int, float]]],
) -> tuple[Ints, Ints, Ints, Floats, list[str]]:
    """Return item, worker, label and confidence of every vote, and the workers' names."""
    rows = [
        (i, _worker(source, confidence), label, confidence)
        for i, given in enumerate(votes)
        for source, (label, confidence) in sorted(given.items())
    ]
    names = sorted({name for _, name, _, _ in rows})
    place = {name: k for k, name in enumerate(names)}
    flat = np.array([(i, place[name], x) for i, name, x, _ in rows], dtype=np.int64).reshape(-1, 3)
    return flat[:, 0], flat[:, 1], flat[:, 2], np.array([c for *_, c in rows]), names


def _worker(source: str, confidence: float) -> str:
    low = max((b for b in BANDS if b <= confidence), default=0.0)
    return f"{source} {low:.2f}+"


def _prior(worker: Ints, sure: Floats, workers: int, labels: int) -> Floats:
    """Return `[worker, true, said]` in votes: right as often as claimed, errors spread evenly."""
    votes = np.maximum(np.bincount(worker, minlength=workers), 1)
    mean = np.bincount(worker, sure, workers) / votes
    claims = mean < 1
    right = np.where(claims, np.clip(mean, _LEAST, _MOST), _RIGHT)
    prior = np.empty((workers, labels, labels))
    prior[:] = ((1 - right) / max(labels - 1, 1))[:, None, None]
    prior[:, range(labels), range(labels)] = right[:, None]
    return prior * np.where(claims, _CLAIMED, _UNCLAIMED)[:, None, None]


def _majority(item: Ints, said: Ints, n: int, labels: int) -> Floats:
    counts = np.zeros((n, labels))
    np.add.at(counts, (item, said), 1.0)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), 1 / labels)


def _matrices(posterior: Floats, item: Ints, worker: Ints, said: Ints, prior: Floats) -> Floats:
    """Return `[worker, true, said]`, each row a distribution."""
    counts = np.zeros_like(prior)
    np.add.at(counts.transpose(0, 2, 1), (worker, said), posterior[item])
    counts += prior
    return np.asarray(counts / np.maximum(counts.sum(axis=2, keepdims=True), 1e-12))


def _right(
    posterior: Floats, item: Ints, worker: Ints, said: Ints, names: list[str]
) -> dict[str, float]:
    right = posterior[item, said]
    return {name: float(right[worker == k].mean()) for k, name in enumerate(names)}
