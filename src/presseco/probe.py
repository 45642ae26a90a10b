"""Logistic regression on frozen vectors: a baseline by itself, and the start of the head."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from presseco.evaluate import Floats, Ints, confusion_matrix, macro_f1
from presseco.taxonomy import MISSING, slices

#: The head is tanh(dense) then a projection. Standardised vectors divided by this stay where tanh
#: is straight (|x| < 4 gives |x / 8| < 0.5, tanh off by 8 % at most), so the head starts as the probe.
_SOFT = 8.0


@dataclass(frozen=True)
class Probe:
    """Linear classifiers on standardised vectors: logits = ((x - mean) / scale) @ weight.T + bias."""

    mean: Floats
    scale: Floats
    weight: Floats
    bias: Floats
    c: dict[str, float]

    def logits(self, vectors: Any) -> Floats:
        """Return the flat logits of vectors of shape (texts, hidden)."""
        return np.asarray((vectors - self.mean) / self.scale @ self.weight.T + self.bias)


def fit_probe(
    train: Any,
    labels: Ints,
    validation: Any,
    truth: Ints,
    task_map: list[list[Any]],
    grid: list[float],
) -> Probe:
    """Fit one logistic regression a task; its strength is the best macro-F1 on validation."""
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    x, v = (train - mean) / scale, (validation - mean) / scale
    width = slices(task_map)[-1].stop
    weight, bias = np.zeros((width, x.shape[1])), np.zeros(width)
    chosen = {}
    for t, s in enumerate(slices(task_map)):
        known, seen = labels[:, t] != MISSING, truth[:, t] != MISSING
        best = -1.0
        for c in grid:
            w, b = _fit(x[known], labels[known, t], s.stop - s.start, c)
            guess = (v[seen] @ w.T + b).argmax(axis=1)
            score = float(macro_f1(confusion_matrix(truth[seen, t], guess, len(b))))
            if score > best:
                best, chosen[s.name] = score, c
                weight[s.start : s.stop], bias[s.start : s.stop] = w, b
    return Probe(mean, scale, weight, bias, chosen)


def _fit(x: Any, y: Ints, classes: int, c: float) -> tuple[Floats, Floats]:
    # C is per example in scikit-learn; 1/n makes the grid mean the same for 100 and 3,000 articles.
    model = LogisticRegression(C=100 * c / len(y), class_weight="balanced", max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    w, b = np.zeros((classes, x.shape[1])), np.full(classes, -10.0)
    coef, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        coef, intercept = np.vstack([-coef, coef]) / 2, np.array([-1, 1]) * intercept / 2
    w[model.classes_], b[model.classes_] = coef, intercept
    return w, b


@torch.no_grad()
def start_head(head: Any, probe: Probe) -> None:
    """Set a classification head (dense, tanh, out_proj) so that it computes the probe."""
    scale = _SOFT * probe.scale
    head.dense.weight.copy_(torch.from_numpy(np.diag(1 / scale)))
    head.dense.bias.copy_(torch.from_numpy(-probe.mean / scale))
    head.out_proj.weight.copy_(torch.from_numpy(_SOFT * probe.weight))
    head.out_proj.bias.copy_(torch.from_numpy(probe.bias))
