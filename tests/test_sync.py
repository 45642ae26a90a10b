"""The tracking server goes away: before, in the middle of and after a training. Nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from conftest import SHRINK, experiment, sets
from presseco import tracking
from presseco.errors import StoreError
from presseco.spool import PLACE, spools, sync
from servers import Server, finish, presseco, python

FILES = {"config.yaml", "environment.yaml", "calibration.json"}
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def project(project: Path) -> Path:
    """The tiny project, with the empty store that its first spool would make in seconds."""
    place = project / PLACE
    place.mkdir(parents=True)
    shutil.copy(project / "mlflow.db", place / f"empty-{mlflow.__version__}.db")
    return project


# --- without a server: fast ---------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)


def test_server_away_at_the_start_is_told_and_the_runs_wait(project, nowhere, caplog):
    tracking.record(project, "essai")
    assert f"tracking server {NOWHERE} is away" in caplog.text and "goes on" in caplog.text
    with tracking.run("r") as active:
        mlflow.log_metric("f1", 0.5)
        assert tracking.run_id() == active.info.run_id
    assert caplog.text.count("is away") == 1, "once an outage, not once a try"
    assert "1 runs wait in" in caplog.text and "presseco sync" in caplog.text
    assert mlflow.get_tracking_uri() == NOWHERE == os.environ["MLFLOW_TRACKING_URI"]
    [left] = spools(project)
    assert (left.server, left.experiment) == (NOWHERE, "essai")
    with pytest.raises(StoreError, match=r"1 trainings wait, nothing is lost.*Connection refused"):
        sync(project)
    assert spools(project) == [left]


def test_waiting_names_no_password(project, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://moi:motdepasse@127.0.0.1:1")
    tracking.record(project, "essai")
    with tracking.run("r"):
        pass
    [left] = spools(project)
    assert left.server == NOWHERE
    written = [p for p in left.folder.rglob("*") if p.is_file() and b"motdepasse" in p.read_bytes()]
    assert not written and "motdepasse" not in caplog.text


def test_nothing_waits(project, nowhere):
    assert sync(project).startswith("0 runs sent, nothing waits in")


def test_spool_of_a_running_training_is_left_to_it(project, nowhere):
    tracking.record(project, "essai")
    with tracking.run("r"):
        assert "1 running trainings send theirs themselves" in sync(project)
        assert len(spools(project)) == 1


def test_run_killed_in_a_container_that_is_gone_is_closed_before_it_is_sent(project, nowhere):
    """Its host name is nobody's now; only the lock tells that nobody writes it any more."""
    tracking.record(project, "essai")
    with tracking.run("r"):
        pass
    [left] = spools(project)
    client = mlflow.MlflowClient(left.uri)
    place = client.get_experiment_by_name("essai").experiment_id
    cut = client.create_run(place, tags={"process": "d0c5e1f2:12:1.0"}).info.run_id
    with pytest.raises(StoreError, match="1 trainings wait"):
        sync(project)
    assert client.get_run(cut).info.status == "KILLED"
    assert {r.info.status for r in client.search_runs([place])} == {"KILLED", "FINISHED"}


# --- with a server ------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    found = Server(folder)
    yield found
    found.kill()


def training(project: Path, name: str, *more: str) -> list[str]:
    return ["train", experiment(project, name), *sets([*SHRINK, *more])]


def train(project: Path, server: str, name: str, *more: str) -> Any:
    return presseco(project, server, *training(project, name, *more))


def wait_for(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def check_whole(server: Server, name: str, epochs: int = 0) -> None:
    """Fail unless the server has one whole training of one model."""
    runs = server.runs()
    assert set(runs) == {"train", name}
    run = runs[name]
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    assert run.data.tags["mlflow.parentRunId"] == runs["train"].info.run_id
    assert server.files(run) >= FILES
    for key in run.data.metrics:
        steps = [m.step for m in server.client.get_metric_history(run.info.run_id, key)]
        assert len(steps) == len(set(steps)), key
    if epochs:
        key = "validation.macro_f1"
        steps = {m.step for m in server.client.get_metric_history(run.info.run_id, key)}
        assert len(steps) >= epochs
    [version] = server.client.search_model_versions("")
    assert version.run_id == run.info.run_id and version.description
    model = server.client.get_registered_model(version.name)
    assert str(model.aliases["champion"]) == str(version.version)


#: A training that stops after its second epoch until its first argument exists, and after its third
#: until the second does. Without them a fast machine has ended before the server is back, and a slow
#: one has not begun when it goes.
WAITING = """
import sys, time, mlflow
from pathlib import Path
from presseco.__main__ import main
log, gates = mlflow.log_metrics, {2: Path(sys.argv[1]), 3: Path(sys.argv[2])}
def log_then_wait(metrics, step=None):
    log(metrics, step=step)
    print("epoch", step, flush=True)
    end = time.monotonic() + 600
    while step in gates and not gates[step].exists() and time.monotonic() < end:
        time.sleep(0.1)
mlflow.log_metrics = log_then_wait
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.services
@pytest.mark.timeout(900)  # minutes on a busy machine
def test_server_killed_in_the_middle_of_a_training_and_started_again(project, server, tmp_path):
    server.start()
    away, back = tmp_path / "away", tmp_path / "back"
    command = training(project, "camembert-mini", "camembert.epochs=4", "camembert.patience=4")
    process = python(project, server.uri, "-c", WAITING, str(away), str(back), *command)

    def logs() -> bool:
        run = server.runs().get("camembert-mini")
        return bool(run and run.data.metrics)

    try:
        wait_for(lambda: process.poll() is not None or logs())
        assert process.poll() is None, process.communicate()
        server.kill()
        [left] = spools(project)
        away.touch()
        assert "epoch 3\n" in process.stdout, "logs while nobody is there"
        assert any("is away" in line for line in process.stderr), "a pass has found nobody"
        server.start()
        back.touch()
        printed = finish(process)
    finally:
        process.kill()
    assert "is away" not in printed and "all runs sent to" in printed
    assert spools(project) == [] and not left.folder.exists()
    check_whole(server, "camembert-mini", epochs=4)


@pytest.mark.services
@pytest.mark.timeout(900)  # minutes on a busy machine
def test_server_away_from_start_to_end_then_sync_twice_then_compare(project, server):
    printed = finish(train(project, server.uri, "baseline"))
    assert printed.count("is away") == 1 and "2 runs wait in" in printed
    assert (project / "dist" / "baseline").is_dir()
    refused = finish(presseco(project, server.uri, "sync"), code=1)
    assert refused.startswith("presseco sync: 0 runs sent; 1 trainings wait")
    assert len(refused.splitlines()) == 1
    server.start()
    assert "2 runs sent, nothing waits" in finish(presseco(project, server.uri, "sync"))
    check_whole(server, "baseline")
    before = (server.folder / "server.log").read_text("utf-8").count("POST")
    assert "0 runs sent, nothing waits" in finish(presseco(project, server.uri, "sync"))
    after = (server.folder / "server.log").read_text("utf-8").count("POST")
    assert after == before, "the second time nothing is sent at all"
    lineage = json.loads((project / "dist" / "baseline" / "baseline.json").read_text("utf-8"))
    run = server.runs()["baseline"]
    assert lineage["lineage"]["run_id"] == run.data.tags["spool"]
    os.environ["MLFLOW_TRACKING_URI"] = server.uri
    tracking.connect(project, "presseco")
    found = tracking.find_run(lineage["lineage"]["run_id"])
    assert found.info.run_id == run.info.run_id, "the number in the bundle finds the run"


SCRIPT = """
import sys, time, mlflow
from pathlib import Path
from presseco import tracking
root = Path(sys.argv[1])
tracking.record(root, "presseco")
with tracking.run("parent"), tracking.run("child", nested=True):
    print(tracking.run_id(), flush=True)
    for step in range(2000):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        time.sleep(0.05)
"""


def start_script(project: Path, server: str) -> subprocess.Popen[str]:
    return python(project, server, "-c", SCRIPT, str(project))


@pytest.mark.services
@pytest.mark.timeout(900)  # minutes on a busy machine
def test_killed_training_and_killed_sync(project, server, tmp_path):
    """SIGKILL while the server is away: `sync` sends what was logged and marks the runs KILLED."""
    server.start()
    process = start_script(project, server.uri)
    run_id = process.stdout.readline().strip()
    wait_for(lambda: server.client.get_run(run_id).data.metrics)
    assert {r.info.status for r in server.runs().values()} == {"RUNNING"}, "seen while it runs"
    server.kill()
    seen = time.monotonic() + 3
    while time.monotonic() < seen:
        time.sleep(0.2)
    process.kill()
    process.wait()
    [left] = spools(project)
    copy = shutil.copytree(left.folder, tmp_path / "copy")
    server.start()
    os.environ["MLFLOW_TRACKING_URI"] = server.uri
    for patience in (2.5, 3.5, 4.5):  # killed while it starts, or while it sends
        sending = presseco(project, server.uri, "sync")
        try:
            sending.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            sending.send_signal(signal.SIGKILL)
            sending.wait()
    sync(project)
    assert spools(project) == []
    runs = server.runs()
    assert {r.info.status for r in runs.values()} == {"KILLED"}
    assert runs["child"].info.run_id == run_id
    local = mlflow.MlflowClient(f"sqlite:///{copy}/mlflow.db")
    own = runs["child"].data.tags["spool"]
    logged = [(m.step, m.value) for m in local.get_metric_history(own, "loss")]
    arrived = [(m.step, m.value) for m in server.client.get_metric_history(run_id, "loss")]
    assert sorted(arrived) == sorted(logged) and len(logged) > 10


@pytest.mark.services
@pytest.mark.timeout(900)  # minutes on a busy machine
def test_interrupted_training_is_killed_on_the_server(project, server):
    server.start()
    process = start_script(project, server.uri)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert {r.info.status for r in server.runs().values()} == {"KILLED"}
    assert spools(project) == []


@pytest.mark.services
@pytest.mark.timeout(900)  # minutes on a busy machine
def test_server_that_answers_but_refuses_is_told_at_once(project):
    """A web server that is no MLflow: a wrong address, not an outage."""
    command = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        [command[0], "-u", *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as web:
        port = web.stdout.readline().split("port ")[1].split()[0]
        process = train(project, f"http://127.0.0.1:{port}", "baseline")
        printed = finish(process, code=1)
        web.kill()
    assert "presseco train: tracking server" in printed and "refuses" in printed
    assert spools(project) == []
