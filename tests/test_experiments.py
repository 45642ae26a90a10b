"""What is checked before a training starts, and how soon it is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, SHRINK, experiment
from presseco.errors import ConfigError, EncoderError
from presseco.experiments import read_experiments


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "models").symlink_to(ROOT / "models")
    return tmp_path


def test_experiments_in_their_order(folder):
    names = ["camembert-mini", "baseline", "frozen"]
    files = [experiment(folder, n) for n in names]
    assert [c.name for c in read_experiments(files, SHRINK)] == names


def test_experiments_on_different_corpora_are_refused(folder):
    other = folder / "configs" / "experiment" / "other.yaml"
    other.write_text("name: other\nkind: baseline\ncorpus: {min_words: 99}\n")
    with pytest.raises(ConfigError, match="other and baseline build different corpora"):
        read_experiments([experiment(folder, "baseline"), str(other)])


def test_encoder_that_is_not_there_is_told_first(folder):
    (folder / "models").unlink()
    assert read_experiments([experiment(folder, "baseline")])
    with pytest.raises(EncoderError, match="models/encoder is not in the local cache"):
        read_experiments([experiment(folder, "baseline"), experiment(folder, "camembert-mini")])


def test_mistake_is_told_before_anything_slow_is_imported(folder):
    code = (
        "import sys\n"
        "from presseco.__main__ import main\n"
        "assert main(['train', sys.argv[1], '--set', 'camembert.epoch=3']) == 1\n"
        "slow = {'torch', 'transformers', 'mlflow', 'datasets', 'sklearn'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    command = [sys.executable, "-c", code, experiment(folder, "camembert-mini")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "unknown key 'camembert.epoch' (did you mean 'epochs'?)" in done.stderr
