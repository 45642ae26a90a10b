"""Probabilities that mean what they say: a temperature a task, and a threshold for a risk target."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from presseco.evaluate import Floats, Ints, softmax
from presseco.taxonomy import MISSING

#: Share of wrong answers allowed among those given (validation), from issue to user: "at most 5 %".
RISK_TARGET = 0.05
#: An answer set smaller than this says nothing about a 5 % risk.
_MIN_ANSWERED = 20


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """Return the temperature that minimises the negative log-likelihood of one task's logits."""
    known = truth != MISSING
    logits, truth = logits[known].astype(np.float64), truth[known]
    if len(truth) == 0:
        return 1.0

    def loss(log_t: float) -> float:
        p = softmax(logits / np.exp(log_t))
        return float(-np.log(p[np.arange(len(truth)), truth] + 1e-12).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def risk_coverage(probabilities: Floats, truth: Ints) -> tuple[Floats, Floats, Floats]:
    """Return confidence, coverage and risk when the k most confident answers are given, k = 1…n."""
    known = truth != MISSING
    p, t = probabilities[known], truth[known]
    top = p.max(axis=1)
    order = np.argsort(-top, kind="stable")
    wrong = np.cumsum(p.argmax(axis=1)[order] != t[order])
    k = np.arange(1, len(t) + 1)
    return top[order], k / len(t), wrong / k


def fit_threshold(probabilities: Floats, truth: Ints, risk: float = RISK_TARGET) -> float:
    """Return the lowest probability from which at most `risk` of the answers are wrong.

    1.01 (always abstain) when no threshold reaches the target on at least 20 answers.
    """
    confidence, _, risks = risk_coverage(probabilities, truth)
    # Texts of equal confidence are answered together or not at all.
    whole = np.append(confidence[:-1] > confidence[1:], True)
    enough = np.arange(1, len(risks) + 1) >= _MIN_ANSWERED
    fits = np.flatnonzero(whole & enough & (risks <= risk))
    return float(confidence[fits[-1]]) if len(fits) else 1.01


def answered(probabilities: Floats, truth: Ints, threshold: float) -> tuple[float, float]:
    """Return coverage (share answered) and risk (share of those wrong, NaN of none) at a threshold."""
    known = truth != MISSING
    p, t = probabilities[known], truth[known]
    given = p.max(axis=1) >= threshold
    if not given.any():
        return 0.0, float("nan")
    return float(given.mean()), float((p.argmax(axis=1)[given] != t[given]).mean())


def outside_auroc(inside: dict[str, Floats], outside: dict[str, Floats]) -> float:
    """Return the chance that a business article gets more confidence than an out-of-domain text.

    Confidence is the mean over tasks of the top probability; 0.5 is chance, 1.0 perfect.
    """
    ours = np.mean([p.max(axis=1) for p in inside.values()], axis=0)
    theirs = np.mean([p.max(axis=1) for p in outside.values()], axis=0)
    wins = (ours[:, None] > theirs).mean() + 0.5 * (ours[:, None] == theirs).mean()
    return float(wins)
