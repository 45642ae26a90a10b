"""Temperature, risk and threshold on data whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presseco.calibration import answered, fit_temperature, fit_threshold, risk_coverage
from presseco.evaluate import calibration_error, softmax
from presseco.taxonomy import MISSING


def drawn(n: int, seed: int = 0, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels drawn from their softmax: calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    truth = (softmax(logits).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logits, truth


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_temperature_undoes_a_known_scaling(factor):
    logits, truth = drawn(8000)
    assert fit_temperature(logits * factor, truth) == pytest.approx(factor, rel=0.05)


def test_temperature_repairs_the_calibration_error():
    logits, truth = drawn(8000)
    wild = 3 * logits
    before = calibration_error(softmax(wild), truth)
    after = calibration_error(softmax(wild / fit_temperature(wild, truth)), truth)
    assert before > 0.1 and after < 0.02


def test_temperature_ignores_missing_labels():
    logits, truth = drawn(2000)
    some = truth.copy()
    some[::2] = MISSING
    expected = fit_temperature(logits[1::2], truth[1::2])
    assert fit_temperature(logits, some) == pytest.approx(expected)
    assert fit_temperature(logits, np.full(2000, MISSING)) == 1.0


def test_temperature_stays_within_its_bounds():
    logits, truth = np.eye(3) * 5, np.arange(3)
    assert 0.1 <= fit_temperature(logits, truth) < 0.5  # all right: as sharp as allowed
    assert 9.5 < fit_temperature(np.roll(logits, 1, axis=1), truth) <= 10.0


def test_risk_and_coverage_by_hand():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    confidence, coverage, risk = risk_coverage(p, np.array([0, 1, 1, MISSING]))
    assert confidence == pytest.approx([0.9, 0.8, 0.6])
    assert coverage == pytest.approx([1 / 3, 2 / 3, 1])
    assert risk == pytest.approx([0, 0, 1 / 3])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.05, 0.2]), st.booleans())
def test_threshold_keeps_its_promise_where_it_was_fitted(seed, risk, ties):
    logits, truth = drawn(300, seed)
    p = softmax(logits)
    if ties:  # many texts with exactly the same probabilities
        p = softmax(np.round(logits))
    threshold = fit_threshold(p, truth, risk)
    coverage, found = answered(p, truth, threshold)
    assert coverage == 0.0 or (found <= risk + 1e-12 and coverage >= 20 / 300)


def test_threshold_keeps_its_promise_about_on_other_texts():
    logits, truth = drawn(20_000)
    threshold = fit_threshold(softmax(logits), truth, 0.05)
    other, labels = drawn(20_000, seed=1)
    coverage, risk = answered(softmax(other), labels, threshold)
    assert risk == pytest.approx(0.05, abs=0.01) and coverage > 0.1


def test_model_that_is_always_wrong_always_abstains():
    p = softmax(np.array([[5.0, 0.0]] * 50))
    assert fit_threshold(p, np.ones(50, np.int64)) == 1.01
    coverage, risk = answered(p, np.ones(50, np.int64), 1.01)
    assert coverage == 0.0 and np.isnan(risk)  # not 0: no answer was right


def test_model_that_is_always_right_never_abstains():
    p = softmax(np.random.default_rng(0).normal(0, 1, (50, 3)))
    truth = p.argmax(axis=1)
    assert answered(p, truth, fit_threshold(p, truth)) == (1.0, 0.0)


def test_few_texts_promise_nothing():
    p = softmax(np.array([[5.0, 0.0]] * 19))
    assert fit_threshold(p, np.zeros(19, np.int64)) == 1.01
