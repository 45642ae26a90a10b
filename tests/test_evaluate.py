"""Scores against scikit-learn, and against cases whose answer is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sk_confusion
from sklearn.metrics import f1_score, precision_recall_fscore_support

from presseco.evaluate import (
    BINS,
    calibration_error,
    confusion_matrix,
    macro_f1,
    mean_macro_f1,
    score_task,
    softmax,
    split_logits,
)
from presseco.taxonomy import MISSING

K = 5
PAIRS = st.lists(st.tuples(st.integers(0, K - 1), st.integers(0, K - 1)), min_size=1, max_size=40)


def one_hot(guess, classes=K, top=1.0):
    p = np.full((len(guess), classes), (1 - top) / (classes - 1))
    p[np.arange(len(guess)), guess] = top
    return p


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_macro_f1_is_that_of_scikit_learn(pairs):
    truth, guess = np.array(pairs).T
    present = sorted({*truth, *guess})
    expected = f1_score(truth, guess, labels=present, average="macro", zero_division=0)
    ours = confusion_matrix(truth, guess, K)
    assert (ours == sk_confusion(truth, guess, labels=range(K))).all()
    assert macro_f1(ours) == pytest.approx(expected)


def test_macro_f1_of_a_stack_is_that_of_each():
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 5, (7, K, K))
    assert macro_f1(stack) == pytest.approx([macro_f1(c) for c in stack])


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_per_class_table_is_that_of_scikit_learn(pairs):
    truth, guess = np.array(pairs).T
    score = score_task("t", list("abcde"), one_hot(guess), truth)
    p, r, f, n = precision_recall_fscore_support(truth, guess, labels=range(K), zero_division=0)
    for i, row in enumerate(score.per_class):
        assert (row["label"], row["n"]) == ("abcde"[i], n[i])
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx((p[i], r[i], f[i]))
    assert score.accuracy == pytest.approx((truth == guess).mean())


def test_missing_truth_is_left_out():
    truth = np.array([0, MISSING, 1, MISSING])
    score = score_task("t", ["a", "b"], one_hot([0, 1, 0, 0], 2), truth)
    assert score.n == 2 and score.accuracy == 0.5 and score.confusion.sum() == 2


@pytest.mark.parametrize(
    ("top", "right", "expected"),
    [
        (1.0, 1.0, 0.0),  # sure and right
        (1.0, 0.0, 1.0),  # sure and wrong
        (0.9, 0.5, 0.4),  # overconfident by 0.4
        (0.6, 0.9, 0.3),  # underconfident by 0.3
        (0.8, 0.8, 0.0),  # as sure as right
    ],
)
def test_calibration_error_of_constructed_cases(top, right, expected):
    truth = np.zeros(1000, dtype=np.int64)
    guess = np.where(np.arange(1000) < 1000 * right, 0, 1)
    p = one_hot(guess, 2, top)
    assert calibration_error(p, truth) == pytest.approx(expected, abs=1e-9)


def test_calibration_error_weighs_bins_by_their_texts():
    guess = np.zeros(100, dtype=np.int64)
    p = np.concatenate([one_hot(guess[:75], 2, 0.95), one_hot(guess[75:], 2, 0.55)])
    truth = np.concatenate([np.zeros(75, np.int64), np.ones(25, np.int64)])
    assert calibration_error(p, truth) == pytest.approx(0.75 * 0.05 + 0.25 * 0.55)


def test_calibrated_predictions_have_almost_no_error():
    rng = np.random.default_rng(3)
    p = softmax(rng.normal(0, 2, (40_000, 4)))
    truth = (p.cumsum(axis=1) > rng.random((40_000, 1))).argmax(axis=1)
    assert calibration_error(p, truth) < 0.01
    assert calibration_error(softmax(3 * np.log(p)), truth) > 0.1


def test_calibration_error_of_nothing_is_no_number():
    assert np.isnan(calibration_error(np.zeros((0, 3)), np.zeros(0, np.int64)))
    assert BINS == 15


def test_interval_covers_the_true_score_about_95_times_in_100():
    """Samples of 150 from a known confusion: the interval holds the population's macro-F1."""
    rng = np.random.default_rng(0)
    population = np.array([[30, 6, 4], [5, 20, 5], [3, 4, 23]]) / 100
    truth_value = macro_f1(population * 1e9)
    cells = [(i, j) for i in range(3) for j in range(3)]
    hits = 0
    for trial in range(120):
        drawn = rng.choice(9, size=150, p=population.ravel())
        truth, guess = np.array([cells[d] for d in drawn]).T
        low, high = score_task("t", list("abc"), one_hot(guess, 3), truth, trial).interval
        hits += low <= truth_value <= high
    assert 0.88 <= hits / 120 <= 1.0


def test_interval_is_the_same_twice_and_narrower_with_more_texts():
    rng = np.random.default_rng(1)
    truth, guess = rng.integers(0, K, 400), rng.integers(0, K, 400)
    guess[:200] = truth[:200]
    widths = []
    for n in (50, 400):
        order = rng.permutation(400)[:n]
        first, again = (
            score_task("t", list("abcde"), one_hot(guess[order]), truth[order]) for _ in range(2)
        )
        assert first.interval == again.interval
        assert first.interval[0] <= first.macro_f1 <= first.interval[1]
        widths.append(first.interval[1] - first.interval[0])
    assert widths[1] < widths[0] / 2


def test_metric_names():
    score = score_task("sector", ["a", "b"], one_hot([0, 1], 2), np.array([0, 1]))
    names = score.metrics("test")
    assert names["test.sector.macro_f1"] == names["test.sector.accuracy"] == 1.0
    assert names["test.sector.ece"] == pytest.approx(0.0)
    assert all(n.startswith("test.sector.") for n in names)


def test_split_logits_divides_by_the_task_s_temperature():
    task_map = [["a", ["x", "y"]], ["b", ["u", "v", "w"]]]
    logits = np.array([[2.0, 0.0, 1.0, 2.0, 3.0]])
    p = split_logits(logits, task_map, {"a": 2.0})
    assert p["a"] == pytest.approx(softmax(np.array([[1.0, 0.0]])))
    assert p["b"] == pytest.approx(softmax(np.array([[1.0, 2.0, 3.0]])))


def test_mean_macro_f1_is_the_mean_over_tasks():
    task_map = [["a", ["x", "y"]], ["b", ["u", "v"]]]
    logits = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    truth = np.array([[0, 1], [1, MISSING]])
    assert mean_macro_f1(task_map, logits, truth) == pytest.approx((1.0 + 0.0) / 2)


def test_softmax_of_large_logits():
    assert softmax(np.array([1000.0, 1000.0, -1000.0])) == pytest.approx([0.5, 0.5, 0.0])
