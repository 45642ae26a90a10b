"""Several processes: parts of a batch, and the same training as one process, by torchrun and gloo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient

from conftest import SHRINK, experiment, sets
from presseco import processes
from presseco.__main__ import main

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

#: Fine-tunes the tiny model of a project on 33 texts (the last batch has one row for two ranks) and
#: prints, on the first rank, the loss of every epoch and a digest of the weights after every step.
SCRIPT = """
import contextlib, json, sys
from pathlib import Path
import numpy as np, torch
from presseco import processes
from presseco.camembert import fine_tune
from presseco.config import read_config
from presseco.encoder import load_model, load_tokenizer
from presseco.encoder import token_ids
from presseco.states import encode
from presseco.taxonomy import read_taxonomy

project, work = Path(sys.argv[1]), Path(sys.argv[2])
config = read_config(project / "configs/experiment/camembert-mini.yaml", sys.argv[3:]).camembert
taxonomy = read_taxonomy(project / "configs/taxonomy.yaml")
files = sorted((project / "data/articles").glob("*.jsonl"))
rows = [json.loads(x) for f in files for x in f.read_text("utf-8").splitlines()][::2]
labels = np.array([[taxonomy.index(t, r[t]) for t in taxonomy.names] for r in rows])
labels[3] = -100
several = "WORLD_SIZE" in __import__("os").environ
with processes.joined() if several else contextlib.nullcontext():
    folder = project / "models/encoder"
    torch.manual_seed(processes.rank())  # heads differ until the first rank's is spread
    model = load_model(folder, taxonomy.task_map, config.dropout)
    ids = token_ids(load_tokenizer(folder), [r["text"] for r in rows], config.max_tokens)
    parts = [encode(model, i, frozen_layers=1, bf16=False)[0] for i in (ids[:33], ids[33:50])]
    steps = []
    def on_step(step, total):
        steps.append(sum(float(p.detach().double().abs().sum()) for p in model.parameters()))
    state = fine_tune(model, parts[0], labels[:33], parts[1], labels[33:50],
        task_map=taxonomy.task_map, config=config, seed=1, folder=work, on_step=on_step)
    last = sum(float(p.detach().double().abs().sum()) for p in model.parameters())
    if processes.first():
        print("RESULT " + json.dumps([state.history, steps, last]))
"""


def run(command: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("rows", [1, 2, 7, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_parts_cover_a_batch_once_and_are_never_empty(monkeypatch, rows, ranks):
    monkeypatch.setattr(processes, "count", lambda: ranks)
    covered = []
    for rank in range(ranks):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        start, stop = processes._bounds(rows)[rank]
        covered += range(start, stop)
        own = list(range(rows))[processes.part(rows)]
        assert own == (list(range(start, stop)) or [0])
    assert covered == list(range(rows))


def test_one_process_exchanges_nothing():
    logits = torch.randn(3, 2, requires_grad=True)
    assert processes.gather(logits, 3) is logits
    assert processes.part(5) == slice(0, 5) and processes.first()
    assert processes.agree(0.1) == 0.1


def test_other_verbs_refuse_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare"]) == 1
    assert "presseco compare: runs in one process" in capsys.readouterr().err


@pytest.mark.services
def test_two_gloo_processes_take_the_steps_of_one(template, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    overrides = [*SHRINK, "camembert.epochs=4", "camembert.patience=4", "camembert.batch_size=4"]
    found = []
    for name, command in (("one", [sys.executable]), ("two", TORCHRUN)):
        words = [*command, str(script), str(template), str(tmp_path / name), *overrides]
        found.append(json.loads(run(words).split("RESULT ")[1].splitlines()[0]))
    (history, steps, last), (history_2, steps_2, last_2) = found
    assert len(history) == 4 and len(steps) == 4 * 9, "the last batch has one row, for two ranks"
    for a, b in zip(history, history_2, strict=True):
        assert a["train.loss"] == pytest.approx(b["train.loss"], abs=1e-5)
        assert a["validation.macro_f1"] == pytest.approx(b["validation.macro_f1"], abs=1e-9)
    assert steps == pytest.approx(steps_2, rel=1e-6) and last == pytest.approx(last_2, rel=1e-6)
    assert len({round(s, 6) for s in steps}) == len(steps), "every step moved the weights"


def losses(project: Path) -> tuple[list[Any], list[list[float]]]:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("presseco").experiment_id])
    [child] = [r for r in runs if r.info.run_name.startswith("camembert-mini")]
    keys = ("train.loss", "validation.macro_f1")
    return runs, [
        [m.value for m in client.get_metric_history(child.info.run_id, key)] for key in keys
    ]


@pytest.mark.services
def test_torchrun_trains_logs_and_exports_as_one_process_does(template, tmp_path):
    overrides = [*SHRINK, "camembert.epochs=4", "camembert.patience=4", "tracking.register=false"]
    found = []
    for name, command in (("one", [sys.executable]), ("two", TORCHRUN)):
        project = Path(shutil.copytree(template, tmp_path / name))
        files = [experiment(project, n) for n in ("baseline", "camembert-mini")]
        out = run([*command, "-m", "presseco", "train", *files, *sets(overrides)])
        assert out.count("Test split: macro-F1") == 1, "the table comes once"
        assert (project / "dist" / "camembert" / "bundle.json").exists()
        left = [p for p in (project / "build" / "runs").iterdir() if p.suffix != ".lock"]
        assert left == []
        found.append(losses(project))
    (runs, one), (runs_2, two) = found
    assert len(runs) == len(runs_2) == 3 and {r.info.status for r in runs_2} == {"FINISHED"}
    assert len(one[0]) == 4 and one[0] == pytest.approx(two[0], abs=1e-5)
    assert one[1] == pytest.approx(two[1], abs=1e-9)
