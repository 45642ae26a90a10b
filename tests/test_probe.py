"""The probe and the head that starts as the probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from presseco.encoder import load_model
from presseco.probe import fit_probe, start_head
from presseco.taxonomy import MISSING

TASKS = [["a", ["x", "y", "z"]], ["b", ["u", "v"]]]


@pytest.fixture
def vectors():
    """Three groups of vectors of very different scale and place; labels follow the group."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 240)
    scale = 10.0 ** rng.uniform(-2, 2, 32)
    x = ((np.eye(32)[group] * 3 + rng.normal(5, 1, (240, 32))) * scale).astype(np.float32)
    labels = np.stack([group, (group == 1).astype(int)], axis=1)
    return x[:160], labels[:160], x[160:], labels[160:]


def test_probe_finds_what_separates_the_groups(vectors):
    x, y, v, truth = vectors
    probe = fit_probe(x, y, v, truth, TASKS, [0.1])
    logits = probe.logits(v)
    assert logits.shape == (80, 5)
    assert (logits[:, :3].argmax(axis=1) == truth[:, 0]).mean() > 0.8
    assert (logits[:, 3:].argmax(axis=1) == truth[:, 1]).mean() > 0.8


def test_two_classes_give_the_probabilities_of_scikit_learn(vectors):
    x, y, v, truth = vectors
    probe = fit_probe(x, y, v, truth, TASKS, [0.1])
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    model = LogisticRegression(C=100 * 0.1 / len(x), class_weight="balanced", max_iter=300)
    model.fit((x - mean) / scale, y[:, 1])
    z = probe.logits(v)[:, 3:]
    ours = np.exp(z[:, 1]) / np.exp(z).sum(axis=1)
    assert ours == pytest.approx(model.predict_proba((v - mean) / scale)[:, 1], abs=1e-6)


def test_strength_is_chosen_on_validation(vectors):
    x, y, v, truth = vectors
    grid = [1e-6, 1.0]
    assert fit_probe(x, y, v, truth, TASKS, grid).c["a"] == 1.0
    assert fit_probe(x, y, v, truth, TASKS, grid[::-1]).c["a"] == 1.0


def test_missing_labels_and_labels_never_seen(vectors):
    x, y, v, truth = vectors
    y, truth = y.copy(), truth.copy()
    y[y[:, 0] == 2, 0] = MISSING
    truth[:40, 0] = MISSING
    logits = fit_probe(x, y, v, truth, TASKS, [0.1]).logits(v)
    assert np.isfinite(logits).all()
    assert 2 not in logits[:, :3].argmax(axis=1), "a label that training never saw was answered"


def test_head_starts_as_the_probe(vectors, tiny_encoder):
    """Same answers and nearly the same logits: tanh is off by 8 % at most where |x| < 4."""
    x, y, v, truth = vectors
    probe = fit_probe(x, y, v, truth, TASKS, [0.1])
    model = load_model(tiny_encoder, TASKS).eval()
    start_head(model.classifier, probe)
    with torch.no_grad():
        head = model.classifier(torch.from_numpy(v)[:, None, :]).numpy()
    expected = probe.logits(v)
    assert head == pytest.approx(expected, abs=0.08 * np.abs(expected).max())
    for part in (slice(0, 3), slice(3, 5)):
        agree = head[:, part].argmax(axis=1) == expected[:, part].argmax(axis=1)
        assert agree.mean() >= 0.97
