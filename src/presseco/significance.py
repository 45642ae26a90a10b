"""Is one model better than another on the same texts? Paired bootstrap and approximate randomisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from presseco.evaluate import Ints, confusion_matrix, macro_f1

#: Resamples of the interval and swaps of the test; p is then known to about 0.005 near 0.05.
RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """Macro-F1 of B minus A on one task; `p` is two-sided, `interval` is 95 %."""

    task: str
    n: int
    a: float
    b: float
    interval: tuple[float, float]
    p: float

    @property
    def value(self) -> float:
        """Return the difference, positive where B is better."""
        return self.b - self.a

    @property
    def verdict(self) -> str:
        """Return `better`, `worse` or `no clear difference`: the interval excludes 0 or not."""
        if self.interval[0] > 0:
            return "better"
        return "worse" if self.interval[1] < 0 else "no clear difference"


def compare_guesses(
    task: str, truth: Ints, a: Ints, b: Ints, classes: int, seed: int = 0
) -> Difference:
    """Compare the guesses of two models on the same texts.

    Interval: texts are drawn with replacement, the same for both (paired bootstrap). p: the share
    of random exchanges of the two guesses, text by text, that give a difference at least as large
    (approximate randomisation, Noreen 1989).
    """
    rng = np.random.default_rng(seed)
    n = len(truth)
    score_a, score_b = (_score(truth, g, classes) for g in (a, b))
    observed = score_b - score_a
    draws, extreme = np.empty(RESAMPLES), 0
    for i in range(RESAMPLES):
        pick = rng.integers(0, n, n)
        t = truth[pick]
        draws[i] = _score(t, b[pick], classes) - _score(t, a[pick], classes)
        swap = rng.random(n) < 0.5
        left, right = np.where(swap, b, a), np.where(swap, a, b)
        shuffled = _score(truth, right, classes) - _score(truth, left, classes)
        extreme += abs(shuffled) >= abs(observed) - 1e-12
    low, high = np.quantile(draws, [0.025, 0.975])
    # One is added to both sides: the observed labelling is one of the possible exchanges.
    p = (extreme + 1) / (RESAMPLES + 1)
    return Difference(task, n, score_a, score_b, (float(low), float(high)), float(p))


def _score(truth: Ints, guess: Ints, classes: int) -> float:
    return float(macro_f1(confusion_matrix(truth, guess, classes)))
