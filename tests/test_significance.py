"""Paired tests: a difference that is there is found, one that is not is not."""

import numpy as np
import pytest

from presseco.significance import compare_guesses


def _guesses(
    truth: np.ndarray, accuracy: float, rng: np.random.Generator, k: int = 4
) -> np.ndarray:
    wrong = rng.random(len(truth)) > accuracy
    return np.where(wrong, (truth + 1) % k, truth)


def test_a_clear_difference_is_found_and_has_its_sign() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 500)
    d = compare_guesses("t", truth, _guesses(truth, 0.6, rng), _guesses(truth, 0.8, rng), 4)
    assert d.verdict == "better"
    assert d.interval[0] > 0.1 and d.p < 0.01
    assert d.value == pytest.approx(0.2, abs=0.06)


def test_a_model_against_itself_has_no_difference() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 200)
    guess = _guesses(truth, 0.7, rng)
    d = compare_guesses("t", truth, guess, guess, 4)
    assert (d.value, d.interval, d.p, d.verdict) == (0.0, (0.0, 0.0), 1.0, "no clear difference")


def test_p_is_uniform_when_nothing_differs() -> None:
    """Under the null hypothesis about 5 % of comparisons come out under 0.05, not 20 %."""
    rng = np.random.default_rng(2)
    small = 0
    for seed in range(40):
        truth = rng.integers(0, 3, 60)
        a, b = _guesses(truth, 0.7, rng, 3), _guesses(truth, 0.7, rng, 3)
        small += compare_guesses("t", truth, a, b, 3, seed=seed).p < 0.05
    assert small <= 6  # binomial(40, 0.05): more than 6 has probability 0.3 %


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    """B corrects ten of A's errors and makes none: clear when paired, though the scores are close."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 400)
    a = _guesses(truth, 0.7, rng)
    b = a.copy()
    errors = np.flatnonzero(a != truth)[:12]
    b[errors] = truth[errors]
    d = compare_guesses("t", truth, a, b, 4)
    assert d.value < 0.05
    assert d.verdict == "better"
