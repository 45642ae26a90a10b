"""Scores with their uncertainty: macro-F1, accuracy, calibration error, bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presseco.taxonomy import MISSING, slices

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Resamples for an interval; the 2.5 % and 97.5 % points are then stable to about 0.003.
RESAMPLES = 1000
#: Bins of the calibration error, as in Guo et al. 2017, "On Calibration of Modern Neural Networks".
BINS = 15


@dataclass(frozen=True)
class TaskScore:
    """One task's scores on one split. `interval` is the 95 % bootstrap interval of macro-F1."""

    task: str
    n: int
    macro_f1: float
    interval: tuple[float, float]
    accuracy: float
    ece: float
    per_class: list[dict[str, Any]]
    confusion: Ints

    def metrics(self, split: str) -> dict[str, float]:
        """Return the MLflow metrics, named `<split>.<task>.<measure>`."""
        prefix = f"{split}.{self.task}."
        values = {
            "macro_f1": self.macro_f1,
            "macro_f1_low": self.interval[0],
            "macro_f1_high": self.interval[1],
            "accuracy": self.accuracy,
            "ece": self.ece,
        }
        return {prefix + k: v for k, v in values.items()}


def softmax(logits: Floats) -> Floats:
    """Return probabilities along the last axis."""
    z = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(z / z.sum(axis=-1, keepdims=True))


def confusion_matrix(truth: Ints, guess: Ints, classes: int) -> Ints:
    """Return counts, shape (classes, classes), rows the true label."""
    flat = np.bincount(truth * classes + guess, minlength=classes * classes)
    return flat.reshape(classes, classes)


def macro_f1(confusion: Any) -> Any:
    """Return macro-F1 of one confusion matrix or of a stack of them.

    A class that neither occurs nor is predicted is left out of the mean (scikit-learn's `labels=`
    restricted to what is present), so that resamples that miss a rare class stay comparable.
    """
    true = confusion.sum(axis=-1)
    guessed = confusion.sum(axis=-2)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    present = (true + guessed) > 0
    f1 = np.where(present, 2 * hits / np.maximum(true + guessed, 1), 0.0)
    return f1.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)


def calibration_error(probabilities: Floats, truth: Ints) -> float:
    """Return the expected calibration error of the top label, in `BINS` equal bins."""
    if len(truth) == 0:
        return float("nan")
    top = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    gaps = [abs(top[bins == b].sum() - right[bins == b].sum()) for b in np.unique(bins)]
    return float(sum(gaps) / len(truth))


def score_task(
    task: str, labels: list[str], probabilities: Floats, truth: Ints, seed: int = 0
) -> TaskScore:
    """Score one task; rows whose truth is `MISSING` are left out."""
    known = truth != MISSING
    probabilities, truth = probabilities[known], truth[known]
    guess, k = probabilities.argmax(axis=1), len(labels)
    confusion = confusion_matrix(truth, guess, k)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(truth), (RESAMPLES, len(truth)))
    resampled = np.stack([confusion_matrix(truth[p], guess[p], k) for p in picks])
    low, high = np.quantile(macro_f1(resampled), [0.025, 0.975])
    return TaskScore(
        task=task,
        n=len(truth),
        macro_f1=float(macro_f1(confusion)),
        interval=(float(low), float(high)),
        accuracy=float((guess == truth).mean()),
        ece=calibration_error(probabilities, truth),
        per_class=per_class(labels, confusion),
        confusion=confusion,
    )


def score_all(
    task_map: list[list[Any]], probabilities: dict[str, Floats], truth: Ints, seed: int = 0
) -> list[TaskScore]:
    """Score every task; `truth` has shape (texts, tasks) in the order of `task_map`."""
    return [
        score_task(name, labels, probabilities[name], truth[:, i], seed)
        for i, (name, labels) in enumerate(task_map)
    ]


def split_logits(
    logits: Floats, task_map: list[list[Any]], temperatures: dict[str, float] | None = None
) -> dict[str, Floats]:
    """Return each task's probabilities from flat logits, divided by the task's temperature."""
    return {
        s.name: softmax(logits[:, s.start : s.stop] / (temperatures or {}).get(s.name, 1.0))
        for s in slices(task_map)
    }


def mean_macro_f1(task_map: list[list[Any]], logits: Floats, truth: Ints) -> float:
    """Return the mean over tasks of macro-F1: what early stopping and tuning maximise."""
    scores = []
    for i, s in enumerate(slices(task_map)):
        known = truth[:, i] != MISSING
        guess = logits[known, s.start : s.stop].argmax(axis=1)
        scores.append(macro_f1(confusion_matrix(truth[known, i], guess, s.stop - s.start)))
    return float(np.mean(scores))


def per_class(labels: list[str], confusion: Ints) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and number of texts of every label; 0 where undefined."""
    rows = []
    for i, label in enumerate(labels):
        hits, true, guessed = confusion[i, i], confusion[i].sum(), confusion[:, i].sum()
        rows.append(
            {
                "label": label,
                "precision": float(hits / guessed) if guessed else 0.0,
                "recall": float(hits / true) if true else 0.0,
                "f1": float(2 * hits / (true + guessed)) if true + guessed else 0.0,
                "n": int(true),
            }
        )
    return rows
