"""The folder of a training under way: kept on a kill, locked, and published whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import SHRINK, experiment, sets
from presseco import camembert
from presseco.__main__ import main
from presseco.checkpoint import save_checkpoint
from presseco.config import Config, read_config
from presseco.errors import StoreError
from presseco.work import publish, work_folder, working


@pytest.fixture
def config(tmp_path: Path) -> Config:
    import shutil

    from conftest import ROOT

    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    return read_config(experiment(tmp_path, "camembert-mini"), SHRINK)


def test_folder_goes_when_all_went_well(config):
    with working(config, "d1") as folder:
        (folder / "checkpoint").write_text("x")
    assert not folder.exists()


def test_folder_stays_when_something_went_wrong(config):
    with pytest.raises(RuntimeError), working(config, "d1") as folder:
        (folder / "checkpoint").write_text("x")
        raise RuntimeError
    with working(config, "d1") as again:
        assert (again / "checkpoint").read_text() == "x"


def test_same_work_same_folder_and_any_change_another(config):
    folder = work_folder(config, "d1")
    assert folder == work_folder(config, "d1")
    other_seed = config.model_copy(update={"seed": 2})
    camembert = config.camembert.model_copy(update={"epochs": 3})
    other_epochs = config.model_copy(update={"camembert": camembert})
    folders = {work_folder(c, "d1") for c in (config, other_seed, other_epochs)}
    assert len(folders | {work_folder(config, "d2")}) == 4


def test_two_of_the_same_training_are_refused(config):
    message = "being trained by another process. Wait for it, or train another seed"
    with working(config, "d1"):
        with pytest.raises(StoreError, match=message), working(config, "d1"):
            pass
        with working(config.model_copy(update={"seed": 2}), "d1"):
            pass
    with working(config, "d1"):
        pass


def test_lock_of_a_killed_process_is_free(config, tmp_path):
    code = (
        "import sys, time\n"
        "from presseco.config import read_config\n"
        "from presseco.work import working\n"
        "with working(read_config(sys.argv[1], sys.argv[2:]), 'd1'):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, experiment(tmp_path, "camembert-mini"), *SHRINK]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    with pytest.raises(StoreError, match="another process"), working(config, "d1"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with working(config, "d1") as folder:
        assert folder.is_dir()


def test_name_with_a_dot_has_a_lock_for_each_seed(config):
    first, second = (config.model_copy(update={"name": "mini-v1.5", "seed": s}) for s in (1, 2))
    with working(first, "d1"), working(second, "d1"):
        assert work_folder(first, "d1").is_dir() and work_folder(second, "d1").is_dir()


def test_training_that_goes_on_does_not_take_weights_of_another_encoder(project, monkeypatch):
    """`make adapt` writes the same folder again: old checkpoints are no start over new weights."""

    def stop(*args: Any) -> None:
        save_checkpoint(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(camembert, "save_checkpoint", stop)
    command = ["train", experiment(project, "camembert-mini"), *sets(SHRINK)]
    command += sets(["camembert.epochs=9", "camembert.patience=9"])
    weights = project / "models" / "encoder" / "model.safetensors"
    steps = []
    for change in (0.0, 0.0, 0.01):
        save_file({n: t + change for n, t in load_file(weights).items()}, weights, {"format": "pt"})
        assert main(command) == 130
        newest = max(
            (project / "build" / "runs").glob("*/checkpoint.safetensors"),
            key=lambda p: p.stat().st_mtime_ns,
        )
        with safe_open(newest, "pt") as f:
            steps.append(json.loads(f.metadata()["progress"])["step"])
    assert steps[1] == 2 * steps[0] and steps[2] == steps[0]


def test_place_that_cannot_be_written(config, tmp_path):
    (tmp_path / "build").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"), working(config, "d1"):
        pass


def test_publish_replaces_the_old_model_as_a_whole(tmp_path):
    for name in ("first", "second"):
        built = tmp_path / "work" / "model"
        built.mkdir(parents=True)
        (built / name).write_text("x")
        publish(built, tmp_path / "dist" / "camembert")
    assert [p.name for p in (tmp_path / "dist" / "camembert").iterdir()] == ["second"]
    assert [p.name for p in (tmp_path / "dist").iterdir()] == ["camembert"]
    assert not built.exists()
