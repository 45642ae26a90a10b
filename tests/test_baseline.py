"""The TF-IDF baseline: what it learns, how it is saved, what it refuses to load."""

from __future__ import annotations

import numpy as np
import pytest
import skops.io

from conftest import SHRINK, experiment
from presseco.baseline import fit_baseline, load_baseline
from presseco.config import read_config
from presseco.errors import BundleError
from presseco.evaluate import split_logits
from presseco.taxonomy import MISSING

TASKS = [["pays", ["france", "japon", "chili"]], ["ton", ["bon", "mauvais"]]]
WORDS = (["Paris Lyon vin", "Tokyo Osaka riz", "Santiago cuivre vigne"], ["hausse", "baisse"])


def texts_and_labels(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, 2, n), rng.integers(0, 2, n)], axis=1)
    texts = [f"Le groupe de {WORDS[0][a]} annonce une {WORDS[1][b]} {i}" for i, (a, b) in
             enumerate(labels)]  # fmt: skip
    return texts, labels


@pytest.fixture
def fitted(template):
    config = read_config(experiment(template, "baseline"), SHRINK).baseline
    texts, labels = texts_and_labels(80, 0)
    labels[::7, 1] = MISSING
    seen, truth = texts_and_labels(40, 1)
    return fit_baseline(texts, labels, seen, truth, task_map=TASKS, config=config)


def test_learns_words(fitted):
    texts, truth = texts_and_labels(40, 2)
    p = split_logits(fitted.logits(texts), TASKS)
    assert (p["pays"].argmax(axis=1) == truth[:, 0]).all()
    assert (p["ton"].argmax(axis=1) == truth[:, 1]).all()


def test_logits_are_log_probabilities_and_an_unseen_label_is_never_answered(fitted):
    logits = fitted.logits(["Le groupe de Santiago annonce du cuivre"])
    assert logits.shape == (1, 5) and np.isfinite(logits).all()
    assert logits[0, 2] == -20
    assert np.exp(logits[0, :2]).sum() == pytest.approx(1.0, abs=1e-6)


def test_saved_and_loaded_it_gives_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model", temperatures={"pays": 1.5, "ton": 1.0})
    again, card = load_baseline(tmp_path / "model")
    texts, _ = texts_and_labels(10, 3)
    assert (again.logits(texts) == fitted.logits(texts)).all()
    assert card["temperatures"]["pays"] == 1.5 and card["task_map"] == TASKS
    assert {p.suffix for p in (tmp_path / "model").iterdir()} <= {".skops", ".json", ".md"}


def test_file_with_a_type_of_its_own_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    skops.io.dump({"views": np.random.default_rng, "models": test_learns_words}, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "model.skops")
    with pytest.raises(BundleError, match="holds untrusted types"):
        load_baseline(tmp_path)


def test_same_inputs_same_model(template, fitted):
    config = read_config(experiment(template, "baseline"), SHRINK).baseline
    texts, labels = texts_and_labels(80, 0)
    labels[::7, 1] = MISSING
    seen, truth = texts_and_labels(40, 1)
    again = fit_baseline(texts, labels, seen, truth, task_map=TASKS, config=config)
    assert (again.logits(seen) == fitted.logits(seen)).all()
