"""Settings: the real files load, and every mistake says what to write instead."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from presseco.config import Config, differences, read_config
from presseco.errors import ConfigError

EXPERIMENTS = sorted((ROOT / "configs" / "experiment").glob("*.yaml"))
MINI = ROOT / "configs" / "experiment" / "camembert-mini.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project folder with base.yaml and an experiment directory."""
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "base.yaml", tmp_path / "configs")
    return tmp_path


def read(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "configs" / "experiment" / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, overrides)


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as e:
        read(folder, text, *overrides)
    return str(e.value)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_real_experiments_load(path):
    config = read_config(path)
    assert config.name == path.stem
    assert config.root == ROOT


def test_experiment_holds_only_differences():
    base = yaml.safe_load((ROOT / "configs" / "base.yaml").read_text("utf-8"))
    for path in EXPERIMENTS:
        for key, value in yaml.safe_load(path.read_text("utf-8")).items():
            if isinstance(value, dict):
                for sub, v in value.items():
                    assert base[key][sub] != v, f"{path.name}: {key}.{sub} is as in base.yaml"


def test_override_wins_over_experiment_and_base(folder):
    config = read(folder, "name: mine\ncamembert: {epochs: 3}", "camembert.epochs=5", "seed=9")
    assert (config.camembert.epochs, config.seed) == (5, 9)


def test_override_reads_lists_null_and_powers_of_ten(folder):
    config = read(
        folder,
        "name: mine",
        "corpus.test_writers=[A, B]",
        "corpus.seeds=null",
        "camembert.learning_rate=3e-5",
    )
    assert config.corpus.test_writers == ["A", "B"]
    assert config.corpus.seeds is None
    assert config.camembert.learning_rate == pytest.approx(3e-5)


def test_unknown_key_names_the_nearest(folder):
    text = refused(folder, "name: mine\ncamembert: {epoch: 3}")
    assert "unknown key 'camembert.epoch' (did you mean 'epochs'?)" in text
    assert "'max_tokens'" in text and "mine.yaml" in text
    assert "unknown key 'sed' (did you mean 'seed'?)" in refused(folder, "name: mine\nsed: 1")


def test_unknown_override(folder):
    assert "did you mean 'patience'" in refused(folder, "name: x", "camembert.patienc=3")


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("camembert.epochs=many", "camembert.epochs is 'many': input should be a valid integer"),
        ("camembert.epochs=0", "camembert.epochs is 0: input should be greater than 0"),
        ("camembert.epochs=true", "camembert.epochs is True"),
        ("seed=-1", "seed is -1: input should be greater than or equal to 0"),
        ("camembert.token_dropout=1", "camembert.token_dropout is 1: input should be less than 1"),
        ("camembert.precision=fp8", "camembert.precision is 'fp8': input should be 'auto',"),
        ("kind=lstm", "kind is 'lstm': input should be 'baseline', 'frozen' or 'camembert'"),
        ("baseline.word_ngrams=[1]", "baseline.word_ngrams is [1]: list should have at least 2"),
        ("corpus.articles=data", "corpus.articles is 'data': input should be a valid list"),
    ],
)
def test_wrong_values(folder, override, found):
    assert found in refused(folder, "name: mine", override)


def test_missing_key(folder):
    base = folder / "configs" / "base.yaml"
    data = yaml.safe_load(base.read_text("utf-8"))
    del data["camembert"]["patience"]
    base.write_text(yaml.safe_dump(data), encoding="utf-8")
    text = refused(folder, "name: mine")
    assert "key 'camembert.patience' is missing, in the file and in base.yaml" in text


def test_section_replaced_by_a_value(folder):
    text = refused(folder, "name: mine\ncamembert: 3")
    assert "camembert is 3; expected keys: encoder, max_tokens" in text


def test_several_mistakes_are_all_told(folder):
    text = refused(folder, "name: mine", "seed=-1", "kind=x")
    assert len(text.splitlines()) == 2


def test_override_without_value(folder):
    assert "--set seed: expected key=value" in refused(folder, "name: mine", "seed")


def test_override_that_is_no_yaml(folder):
    assert "--set seed=[: '[' is not valid YAML" in refused(folder, "name: mine", "seed=[")


def test_files_that_cannot_be_read(folder):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        read_config(folder / "configs" / "experiment" / "none.yaml")
    assert "not valid YAML" in refused(folder, "name: [")
    assert "expected keys and values, found str" in refused(folder, "hello")


def test_differences_are_flat_and_few():
    config = read_config(MINI, ["camembert.epochs=99", "seed=42"])
    assert differences(config) == {"camembert.epochs": 99, "seed": 42}


def test_resolved_yaml_reads_back_the_same(folder):
    first = read(folder, "name: mine", "camembert.epochs=7", "tracking.register=false")
    assert read(folder, first.to_yaml()) == first


def test_config_is_frozen():
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        read_config(MINI).camembert.epochs = 3


def test_mistake_of_an_override_names_the_override_and_not_the_file(folder):
    for item in ("camembert.epoch=3", "seed=-1", "corpus.near_duplicate=[2]"):
        text = refused(folder, "name: mine", "camembert.epochs=3", item)
        assert text.startswith(f"--set {item}: ") and "mine.yaml" not in text
    both = refused(folder, "name: mine\nsed: 1", "seed=-1")
    assert "mine.yaml: unknown key 'sed'" in both and "--set seed=-1: seed is -1" in both
