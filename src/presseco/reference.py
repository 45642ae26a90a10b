"""What articles and answers looked like at training time: `reference.json` in a bundle.

It travels with the model so that `presseco drift` has something to compare new articles with. It
holds counts and single words, no article.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presseco.bundle import MANIFEST, Bundle
from presseco.errors import BundleError
from presseco.text import prepare

REFERENCE = "reference.json"
VERSION = 1
#: Bins of a distribution: tenths of the held-out articles, as is usual for the PSI.
BINS = 10
#: Words kept of the training articles, the commonest first: about 300 kB of JSON.
VOCABULARY = 30_000
#: A word of a single training article is as good as new, and may be somebody's name.
_ARTICLES_A_WORD = 2
_WORD = re.compile(r"[^\W\d_]{2,}")

Array = NDArray[Any]


@dataclass(frozen=True)
class Spread:
    """How a value is spread over articles: `counts` has one bin more than `edges`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float

    def count(self, values: Array) -> Array:
        """Return how many of `values` fall into each bin; an edge belongs to the bin above it."""
        bins = np.searchsorted(np.array(self.edges), values, side="right")
        return np.bincount(bins, minlength=len(self.edges) + 1)


@dataclass(frozen=True)
class TaskReference:
    """One task's answers to the held-out articles: label counts in order, confidence, abstention."""

    labels: tuple[int, ...]
    confidence: Spread
    abstained: int


@dataclass(frozen=True)
class Reference:
    """`articles` held-out articles' figures, and in how many of `train_articles` a word occurs."""

    articles: int
    tasks: dict[str, TaskReference]
    length: Spread
    new_words: Spread
    train_articles: int
    vocabulary: dict[str, int]


def words(prepared: str) -> list[str]:
    """Return the words of a prepared text in lower case; single letters and numbers are left out."""
    return _WORD.findall(prepared.lower())


def new_share(found: Sequence[str], vocabulary: Container[str]) -> float:
    """Return the share of words that are not in `vocabulary`; 0 of no words."""
    return sum(w not in vocabulary for w in found) / len(found) if found else 0.0


def make_reference(
    probabilities: dict[str, Array],
    thresholds: dict[str, float],
    held_out: Sequence[str],
    train: Sequence[str],
) -> dict[str, Any]:
    """Return the content of `reference.json`.

    `probabilities` are the calibrated ones of the `held_out` texts, a task of shape (texts, labels):
    validation and test, since a model is surer of what it was trained on. `train` gives the words.
    """
    vocabulary = _vocabulary(train)
    found = [words(prepare(t)) for t in held_out]
    tasks = {}
    for task, p in probabilities.items():
        top = p.max(axis=1)
        tasks[task] = {
            "labels": np.bincount(p.argmax(axis=1), minlength=p.shape[1]).tolist(),
            # Rounded: two precisions of one model differ by less than this.
            "confidence": _spread(top, step=0.05, below=1.0),
            "abstained": int((top < thresholds[task]).sum()),
        }
    return {
        "version": VERSION,
        "articles": len(held_out),
        "tasks": tasks,
        "length": _spread(np.array([len(w) for w in found]), step=1),
        "new_words": _spread(np.array([new_share(w, vocabulary) for w in found]), step=1e-3),
        "train_articles": len(train),
        "vocabulary": vocabulary,
    }


def _vocabulary(texts: Sequence[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(words(prepare(text))))
    ordered = sorted(counts.items(), key=lambda x: (-x[1], x[0]))
    return {w: n for w, n in ordered[:VOCABULARY] if n >= _ARTICLES_A_WORD}


def _spread(values: Array, *, step: float, below: float = np.inf) -> dict[str, Any]:
    tenths = np.quantile(values, np.arange(1, BINS) / BINS)
    edges = np.unique(np.round(np.round(tenths / step) * step, 6))
    edges = edges[(edges > values.min()) & (edges < below)]
    mean = round(float(values.mean()), 4)
    spread = Spread(tuple(edges.tolist()), (), mean)
    return {"edges": edges.tolist(), "counts": spread.count(values).tolist(), "mean": mean}


def read_reference(bundle: Bundle) -> Reference:
    """Return the reference of a verified bundle; raise `BundleError` saying what to do without."""
    manifest = json.loads(bundle.path(MANIFEST).read_text(encoding="utf-8"))
    if REFERENCE not in manifest["files"]:
        raise BundleError(
            f"{bundle.folder}: has no {REFERENCE}, the record of its training articles that new "
            "ones are compared with; it was exported by an older presseco. Train it again: make train."
        )
    path = bundle.path(REFERENCE)
    try:
        reference = _parse(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise BundleError(f"{path}: missing or malformed entry: {e!r}.") from e
    for task in bundle.tasks:
        known = reference.tasks.get(task.name)
        if known is None or len(known.labels) != len(task.labels):
            raise BundleError(f"{path}: does not fit the labels of task {task.name!r}.")
    return reference


def _parse(data: dict[str, Any]) -> Reference:
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']!r}, this presseco reads {VERSION}")
    tasks = {
        name: TaskReference(tuple(t["labels"]), _read_spread(t["confidence"]), int(t["abstained"]))
        for name, t in data["tasks"].items()
    }
    return Reference(
        articles=int(data["articles"]),
        tasks=tasks,
        length=_read_spread(data["length"]),
        new_words=_read_spread(data["new_words"]),
        train_articles=int(data["train_articles"]),
        vocabulary={str(w): int(n) for w, n in data["vocabulary"].items()},
    )


def _read_spread(data: dict[str, Any]) -> Spread:
    spread = Spread(tuple(data["edges"]), tuple(data["counts"]), float(data["mean"]))
    if len(spread.counts) != len(spread.edges) + 1:
        raise ValueError(f"{len(spread.counts)} counts for {len(spread.edges)} edges")
    return spread
