"""Points of curves and ablations: what their key depends on, subsets, the file they are kept in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SHRINK, experiment, write_lines
from presseco.config import read_config
from presseco.corpus import build_corpus
from presseco.encoded import train_name
from presseco.errors import ConfigError
from presseco.examples import Data, load_data
from presseco.points import (
    merge_points,
    point_key,
    share_encoded,
    subset,
    task_scores,
    without_test,
)
from presseco.states import Inputs


@pytest.fixture(scope="module")
def folder(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(template, tmp_path_factory.mktemp("points") / "project"))


@pytest.fixture(scope="module")
def data(folder: Path) -> Data:
    corpus, _ = build_corpus(read_config(experiment(folder, "camembert-mini"), SHRINK))
    return load_data(corpus)


def key(folder: Path, data: Data, name: str = "camembert-mini", *overrides: str) -> str:
    return point_key(read_config(experiment(folder, name), [*SHRINK, *overrides]), data)


def test_subsets_of_one_seed_are_nested_and_two_seeds_differ(data):
    small, large = subset(data, 10, 1), subset(data, 30, 1)
    assert len(small.train.ids) == 10 and small.train.labels.shape == (10, 3)
    assert large.train.ids[:10] == small.train.ids
    assert large.train.texts[:10] == small.train.texts
    assert set(subset(data, 10, 2).train.ids) != set(small.train.ids)
    assert subset(data, 0, 1).train.ids == data.train.ids


def test_size_that_leaves_one_label_of_a_task_is_told(data):
    labels = data.train.labels.copy()
    labels[:, 1] = 0
    labels[0, 1] = 1
    seed = next(s for s in range(9) if data.train.ids[0] not in subset(data, 30, s).train.ids)
    rare = replace(data, train=replace(data.train, labels=labels))
    message = (
        f"event_type: 1 different labels in the 30 training articles of seed {seed}, at least 2"
    )
    with pytest.raises(ConfigError, match=message):
        subset(rare, 30, seed)
    assert len(subset(rare, 0, seed).train.ids) == len(data.train.ids)


def test_texts_without_an_answer_are_cut_to_the_same_share(data):
    many = replace(data, outside={**data.outside, "train": [f"t{i}" for i in range(40)]})
    half = subset(many, len(data.train.ids) // 2, 1)
    assert len(half.outside["train"]) == 20 and set(half.outside["train"]) <= set(
        many.outside["train"]
    )
    assert half.outside["validation"] == many.outside["validation"]


@pytest.mark.parametrize(
    "override", ["camembert.average=0.5", "camembert.epochs=9", "seed=7", "frozen.c_grid=[0.2]"]
)
def test_key_changes_with_every_setting_that_the_model_reads(folder, data, override):
    assert key(folder, data) == key(folder, data)
    assert key(folder, data, "camembert-mini", override) != key(folder, data)


@pytest.mark.parametrize(
    "override", ["tracking.experiment=other", "promote.max_ece=0.2", "name=other"]
)
def test_key_does_not_change_with_what_the_model_does_not_read(folder, data, override):
    assert key(folder, data, "camembert-mini", override) == key(folder, data)
    assert key(folder, data, "baseline", "camembert.epochs=9") == key(folder, data, "baseline")


def test_key_changes_with_articles_and_splits(folder, data):
    keys = {key(folder, d) for d in (data, subset(data, 10, 1), subset(data, 10, 2))}
    assert len(keys) == 3
    assert key(folder, without_test(data)) not in keys
    assert key(folder, subset(data, 999, 3)) == key(folder, data), "all articles, in any seed"


def test_key_changes_with_the_weights_under_the_same_path(folder, data, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "project"))
    assert key(other, data) == key(folder, data)
    weights = other / "models" / "encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert key(other, data) != key(folder, data)
    assert key(other, data, "baseline") == key(folder, data, "baseline")


def test_key_changes_with_what_there_is_to_distil_from(folder, data, tiny_bundle, tmp_path):
    teacher = Path(shutil.copytree(tiny_bundle, tmp_path / "teacher"))
    texts = tmp_path / "texts"
    write_lines(texts / "a.jsonl", [{"text": "Le groupe vend."}])
    distil = (f"distil.teacher={teacher}", f"distil.texts={texts}")
    keys = [key(folder, data), key(folder, data, "camembert-mini", *distil)]
    write_lines(texts / "a.jsonl", [{"text": "Le groupe rend."}])
    keys.append(key(folder, data, "camembert-mini", *distil))
    with (teacher / "hf" / "model.safetensors").open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"!")
    keys.append(key(folder, data, "camembert-mini", *distil))
    assert len(set(keys)) == 4
    assert key(folder, data, "camembert-mini", *distil) == keys[-1]


def test_teacher_that_is_not_there_is_told(folder, data, tmp_path):
    with pytest.raises(
        ConfigError, match=r"distil\.teacher: .*gone is no bundle and no checkpoint"
    ):
        key(folder, data, "camembert-mini", f"distil.teacher={tmp_path}/gone")


@pytest.mark.parametrize("extra", [[], ["a"], ["b"]])
def test_states_of_train_stay_with_their_subset(data, extra):
    """Whatever else was encoded with them: the next seed's rows are other articles."""
    whole = replace(data, encoded={})
    part = subset(whole, 10, 1)
    for name in (train_name(extra), "validation"):
        part.encoded["encoder", 64, 1, "fp32", name] = (Inputs([], None, []), None)
    share_encoded(whole, part)
    for other in (whole, subset(part, 5, 2)):
        assert [k[-1] for k in other.encoded] == ["validation"]


def test_states_of_train_have_a_name_for_the_texts_read_with_them():
    names = [train_name(extra) for extra in ([], ["a"], ["b"], ["a", "b"], ["ab"])]
    assert len(set(names)) == 5


def test_task_scores_leave_unknown_labels_out(data):
    truth = data.validation.labels.copy()
    truth[0] = -100
    width = sum(len(labels) for _, labels in data.task_map)
    logits = np.zeros((len(truth), width))
    start = 0
    for t, (_, labels) in enumerate(data.task_map):
        for i, y in enumerate(truth[:, t]):
            logits[i, start + max(y, 0)] = 1.0
        start += len(labels)
    scores = task_scores(data, logits, truth)
    assert list(scores) == [name for name, _ in data.task_map]
    assert all(s == {"macro_f1": 1.0, "accuracy": 1.0} for s in scores.values())


def test_points_are_appended_once(tmp_path):
    path = tmp_path / "points.json"
    a: dict[str, Any] = {"key": "a", "batch": "1", "difference": "base"}
    merge_points(path, [a])
    assert merge_points(path, [a, {**a, "difference": "x"}]) == [a, {**a, "difference": "x"}]
    assert json.loads(path.read_text("utf-8")) == [a, {**a, "difference": "x"}]
    assert len(path.read_text("utf-8").splitlines()) == 4
