"""A store of 300 runs stays usable: `presseco compare` and the page of runs take under 5 seconds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from presseco import tracking
from presseco.errors import NO
from servers import Server

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
RUNS = 300
LIMIT = 5.0
MODELS = {"baseline": 0.80, "frozen": 0.72, "camembert": 0.86}
TASKS = {"sector": 14, "event_type": 15, "sentiment": 3}
#: As many as a run of `make train` has: test articles, metrics, params, epochs.
ARTICLES, METRICS, PARAMS, EPOCHS = 557, 60, 25, 4
EXPERIMENT = "presseco"


def fill(root: Path, runs: int) -> None:
    """Write `runs` finished runs into the store of the folder `root`, a fourth of them parents."""
    tracking.connect(root, EXPERIMENT)
    client = MlflowClient()
    place = client.get_experiment_by_name(EXPERIMENT).experiment_id
    last = runs // (1 + len(MODELS)) - 1
    for training in range(last + 1):
        parent = _run(client, place, f"train · 2k articles · seed {training}", {})
        for kind, accuracy in MODELS.items():
            tags = {"mlflow.parentRunId": parent, "kind": kind}
            run = _run(client, place, f"{kind} · 2k articles · seed {training}", tags)
            if training == last:  # what `compare` reads
                answers = _answers(training, kind, accuracy)
                client.log_table(run, answers, "predictions_test.json")
            client.set_terminated(run)
        client.set_terminated(parent)


def _run(client: MlflowClient, place: str, name: str, tags: dict[str, str]) -> str:
    run_id = str(client.create_run(place, run_name=name).info.run_id)
    now = int(time.time() * 1000)
    metrics = [
        Metric(f"test.metric_{i}", 0.5 + i / 1000, now + step, step)
        for i in range(METRICS)
        for step in range(EPOCHS if i < 5 else 1)
    ]
    params = {"kind": tags.get("kind", "none"), "corpus_digest": "c1"}
    params |= {f"setting.{i}": str(i) for i in range(PARAMS - len(params))}
    told = {"purpose": "train", "mlflow.note.content": "| model | f1 |\n" * 20, **tags}
    client.log_batch(
        run_id,
        metrics=metrics,
        params=[Param(k, v) for k, v in params.items()],
        tags=[RunTag(k, v) for k, v in told.items()],
    )
    return run_id


def _answers(seed: int, kind: str, accuracy: float) -> dict[str, Any]:
    truth_rng, rng = np.random.default_rng(0), np.random.default_rng([seed, len(kind)])
    columns: dict[str, Any] = {"id": [f"a{i}" for i in range(ARTICLES)]}
    for task, count in TASKS.items():
        truth = truth_rng.integers(0, count, ARTICLES)
        guess = np.where(rng.random(ARTICLES) < accuracy, truth, rng.integers(0, count, ARTICLES))
        columns[f"{task}_true"] = [f"label_{i}" for i in truth]
        columns[task] = [f"label_{i}" for i in guess]
        columns[f"{task}_probability"] = rng.uniform(0.3, 1.0, ARTICLES).round(4).tolist()
    return columns


@pytest.fixture(scope="module")
def filled(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the store of a project with 300 runs; the project is the server's folder."""
    project = Path(shutil.copytree(template, tmp_path_factory.mktemp("many") / "project"))
    fill(project, RUNS)
    server = Server(project, f"sqlite:///{project}/mlflow.db")
    server.start()
    yield server
    server.kill()


def children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def test_compare(filled, capsys):
    """Against the time that the imports alone take: seconds say as much of the machine as of us.

    Both printed. On two free cores the command takes 4.3 s of processor, the imports 2.2.
    """
    before = children_seconds()
    subprocess.run([sys.executable, "-c", "import presseco.compare"], check=True, timeout=120)
    imports = children_seconds() - before
    before, started = children_seconds(), time.monotonic()
    command = [sys.executable, "-m", "presseco", "compare"]
    done = subprocess.run(
        command, cwd=filled.folder, capture_output=True, text=True, check=False, timeout=120
    )
    wall, used = time.monotonic() - started, children_seconds() - before
    with capsys.disabled():
        print(
            f"\ncompare in a store of {RUNS} runs: {used:.1f} s of processor, {wall:.1f} s; "
            f"imports alone {imports:.1f} s"
        )
    assert done.returncode in (0, NO), done.stderr[-500:]
    assert f"seed {RUNS // 4 - 1}" in done.stdout, "the last training is compared"
    assert used < 3.5 * imports


def test_page_of_runs(filled, capsys):
    """What the page asks for: the experiments, its 100 newest runs; and once all runs."""
    url, started = f"{filled.uri}/ajax-api/2.0/mlflow", time.monotonic()
    found = ask(f"{url}/experiments/search", {"max_results": 100})["experiments"]
    [place] = [e["experiment_id"] for e in found if e["name"] == EXPERIMENT]
    first = ask(f"{url}/runs/search", {"experiment_ids": [place], "max_results": 100})
    page = time.monotonic() - started
    every = ask(f"{url}/runs/search", {"experiment_ids": [place], "max_results": 1000})
    everything = time.monotonic() - started - page
    with capsys.disabled():
        print(f"\npage of 100 of {RUNS} runs: {page:.2f} s; all: {everything:.2f} s")
    assert len(first["runs"]) == 100 and len(every["runs"]) == RUNS
    assert page < LIMIT  # the page asks for the rest only when one scrolls


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))
