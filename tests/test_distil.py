"""Learning from a larger model: what the teacher adds to the loss, and the whole on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import SHRINK, experiment, sets, write_lines
from presseco import Classifier
from presseco.__main__ import main
from presseco.camembert import fine_tune
from presseco.config import DistilConfig, read_config
from presseco.distil import (
    Guide,
    _ridge,
    checkpoint,
    load_teacher,
    make_guide,
    matched_layers,
    watch,
)
from presseco.encoder import load_model, load_tokenizer, token_ids
from presseco.errors import ConfigError
from presseco.states import encode, predict_logits
from presseco.taxonomy import MISSING, read_taxonomy, slices

TASKS = [["a", ["x", "y", "z"]], ["b", ["u", "v"]]]


def test_layers_are_matched_by_depth():
    assert matched_layers(6, 12, 0) == [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]
    assert matched_layers(6, 12, 4) == [(4, 9), (5, 11)]
    assert matched_layers(2, 2, 0) == [(0, 0), (1, 1)]
    assert matched_layers(4, 1, 0) == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_map_finds_what_is_linear_and_shrinks_where_texts_are_few():
    rng = torch.Generator().manual_seed(0)
    own = torch.randn(400, 8, generator=rng)
    theirs = own @ torch.randn(8, 5, generator=rng) + 3
    weight = _ridge(own, theirs)
    wide = torch.cat([own, torch.ones(400, 1)], dim=1) @ weight
    assert float((wide - theirs).square().mean() / theirs.var()) < 1e-4
    assert torch.isfinite(_ridge(own[:3], theirs[:3])).all(), "fewer texts than dimensions"


@pytest.fixture
def student(small_encoder: Path, taxonomy: Any) -> Any:
    torch.manual_seed(0)
    return load_model(small_encoder, taxonomy.task_map, 0.0)


@pytest.fixture(scope="module")
def taxonomy(template: Path) -> Any:
    return read_taxonomy(template / "configs" / "taxonomy.yaml")


@pytest.fixture(scope="module")
def small_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Narrower (16) than the teacher of `tiny_bundle` (32), with the same tokenizer."""
    from transformers import CamembertConfig, CamembertModel

    folder = Path(shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("small") / "encoder"))
    declared = json.loads((folder / "config.json").read_text("utf-8"))
    torch.manual_seed(5)
    config = CamembertConfig(**(declared | {"hidden_size": 16, "intermediate_size": 32}))
    CamembertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_soft_labels_cost_nothing_when_equal_and_pull_when_not(student, taxonomy):
    width = slices(taxonomy.task_map)[-1].stop
    goal = torch.randn(5, width)
    guide = Guide(student, DistilConfig(teacher="t"), taxonomy.task_map, goal)
    assert float(guide(goal[[1, 4]], [1, 4])) == pytest.approx(0, abs=1e-5)
    other = torch.randn(2, width, requires_grad=True)
    loss = guide(other, [1, 4])
    assert float(loss.detach()) > 0.1
    loss.backward()
    with torch.no_grad():
        closer = other - 0.1 * other.grad
    assert float(guide(closer, [1, 4])) < float(loss.detach())
    # Adding a constant to a task's logits changes no probability.
    assert float(guide(goal[[1, 4]] + 7, [1, 4])) == pytest.approx(0, abs=1e-4)


def test_temperature_and_weight(student):
    goal, own = torch.tensor([[2.0, 0.0, 0.0, 1.0, 0.0]]), torch.zeros(1, 5)

    def cost(**settings: float) -> float:
        config = DistilConfig(teacher="t", **settings)
        return float(Guide(student, config, TASKS, goal)(own, [0]))

    soft = torch.softmax(goal[:, :3] / 2, -1)
    by_hand = float((soft * (soft.log() - np.log(1 / 3))).sum())
    soft = torch.softmax(goal[:, 3:] / 2, -1)
    by_hand += float((soft * (soft.log() - np.log(1 / 2))).sum())
    assert cost() == pytest.approx(4 * by_hand, rel=1e-5)
    assert cost(weight=3.0) == pytest.approx(12 * by_hand, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [("gone", "is no bundle and no checkpoint"), ("tasks", "not the labels of this taxonomy")],
)
def test_teachers_that_are_refused(tiny_bundle, taxonomy, tmp_path, change, message):
    folder = tmp_path / "teacher"
    tasks = taxonomy.task_map
    if change == "tasks":
        shutil.copytree(tiny_bundle, folder)
        tasks = [["humeur", ["gai", "grave"]]]
    with pytest.raises(ConfigError, match=message):
        load_teacher(folder, tasks)


def test_teacher_of_a_bundle_answers_as_the_bundle(tiny_bundle, taxonomy, rows):
    teacher = load_teacher(tiny_bundle, taxonomy.task_map)
    assert teacher.max_tokens == 96 and checkpoint(tiny_bundle) == tiny_bundle / "hf"
    texts = [r["text"] for r in rows[:6]]
    ids = token_ids(teacher.tokenizer, texts, teacher.max_tokens)
    logits, vectors = watch(teacher.model, ids, [0, 1], False, lambda *_: None)
    expected = Classifier.load(tiny_bundle, precision="fp32").logits(texts)
    assert np.abs(logits.numpy() - expected).max() < 1e-3
    assert [v.shape for v in vectors] == [(6, 32), (6, 32)]


@pytest.mark.services
def test_student_without_any_label_learns_the_teachers_answers(
    project, tiny_bundle, taxonomy, student, rows, tmp_path
):
    texts = [r["text"] for r in rows[:64]]
    overrides = [*SHRINK, f"distil.teacher={tiny_bundle}", "distil.hidden_weight=1.0"]
    overrides += ["camembert.epochs=12", "camembert.patience=12", "camembert.frozen_layers=0"]
    overrides += ["camembert.learning_rate=0.01", "camembert.head_learning_rate=0.02"]
    config = read_config(
        experiment(project, "camembert-mini"), [*overrides, "camembert.token_dropout=0.0"]
    )
    tokenizer = load_tokenizer(project / "models" / "encoder")
    ids = token_ids(tokenizer, texts, 64)
    inputs, _ = encode(student, ids, frozen_layers=0, bf16=False)
    guide = make_guide(config, student, ids, texts, taxonomy.task_map, tmp_path, lambda *_: None)
    goal = guide._logits.numpy()
    before = predict_logits(student, inputs, frozen_layers=0, bf16=False)
    labels = np.full((64, 3), MISSING)
    answers = np.stack(
        [goal[:, s.start : s.stop].argmax(1) for s in slices(taxonomy.task_map)], axis=1
    )
    state = fine_tune(
        student, inputs, labels, inputs, answers, task_map=taxonomy.task_map,
        config=config.camembert, seed=1, folder=tmp_path, guide=guide,
    )  # fmt: skip
    guide.close()
    after = predict_logits(student, inputs, frozen_layers=0, bf16=False)

    def agree(logits: Any) -> float:
        parts = slices(taxonomy.task_map)
        guess = np.stack([logits[:, s.start : s.stop].argmax(1) for s in parts], axis=1)
        return float((guess == answers).mean())

    assert agree(after) > agree(before) + 0.2
    assert state.history[-1]["train.loss"] < 0.7 * state.history[0]["train.loss"]
    assert not any(module._forward_hooks for module in student.modules())


@pytest.mark.services
def test_distilled_model_is_exported_as_any_other(
    project, small_encoder, tiny_bundle, rows, monkeypatch, tmp_path
):
    monkeypatch.chdir(project)
    shutil.copytree(small_encoder, project / "models" / "small")
    shutil.copytree(tiny_bundle, project / "teacher")
    write_lines(project / "more" / "a.jsonl", [{"text": r["text"] + " Bis."} for r in rows[:20]])
    overrides = [*SHRINK, "name=camembert-distilled", "distil.teacher=teacher", "distil.texts=more"]
    overrides += ["camembert.encoder=models/small", "tracking.register=false"]
    assert main(["train", experiment(project, "camembert-mini"), *sets(overrides)]) == 0
    model = Classifier.load(project / "dist" / "camembert-distilled")
    [answer] = model.predict(["Le groupe licencie 300 personnes à Lyon."])
    assert set(answer.answers) == {"sector", "event_type", "sentiment"}
    native = json.loads(
        (project / "dist" / "camembert-distilled" / "hf" / "config.json").read_text("utf-8")
    )
    assert native["hidden_size"] == 16 + 32  # the words' logits: four heads of 8 more
