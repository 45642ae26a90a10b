"""Runs end with the status that tells how: also when the process was killed or the store broke."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from presseco import tracking
from presseco.errors import StoreError

NAME = "essai"


@pytest.fixture
def client(project: Path) -> MlflowClient:
    tracking.connect(project, NAME)
    return MlflowClient()


def runs(client: MlflowClient) -> list:
    experiment = client.get_experiment_by_name(NAME)
    return client.search_runs([experiment.experiment_id])


SCRIPT = """
import sys, time
from pathlib import Path
from presseco import tracking
root = Path(sys.argv[1])
tracking.connect(root, "essai")
with tracking.run("parent"), tracking.run("child", nested=True):
    print("open", flush=True)
    time.sleep(60)
"""


def stopped_by(number: signal.Signals, project: Path) -> int:
    """Open two runs in a process, send it a signal, and return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(project)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "open\n"
    process.send_signal(number)
    return process.wait(timeout=60)


def test_finished_run_has_its_tags(client):
    with tracking.run("r", tags={"purpose": "test"}) as active:
        assert client.get_run(active.info.run_id).info.status == "RUNNING"
    found = client.get_run(active.info.run_id)
    assert found.info.status == "FINISHED" and found.data.tags["purpose"] == "test"


def test_error_marks_both_runs_failed_and_is_noted(client):
    with pytest.raises(ZeroDivisionError), tracking.run("parent"), tracking.run("c", nested=True):
        1 / 0  # noqa: B018
    assert [r.info.status for r in runs(client)] == ["FAILED", "FAILED"]
    assert all(r.data.tags["error"] == "ZeroDivisionError: division by zero" for r in runs(client))
    assert mlflow.active_run() is None


def test_interrupt_marks_both_runs_killed(client):
    with pytest.raises(KeyboardInterrupt), tracking.run("parent"), tracking.run("c", nested=True):
        raise KeyboardInterrupt
    assert [r.info.status for r in runs(client)] == ["KILLED", "KILLED"]


def test_handler_of_sigterm_is_put_back(client):
    before = signal.getsignal(signal.SIGTERM)
    with tracking.run("parent"), tracking.run("c", nested=True):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_marks_the_runs_killed(project, client):
    assert stopped_by(signal.SIGTERM, project) != 0
    assert [r.info.status for r in runs(client)] == ["KILLED", "KILLED"]


def test_sigkill_leaves_no_run_running_after_the_next_connect(project, client):
    assert stopped_by(signal.SIGKILL, project) == -signal.SIGKILL
    assert [r.info.status for r in runs(client)] == ["RUNNING", "RUNNING"]
    tracking.connect(project, NAME)
    found = runs(client)
    assert [r.info.status for r in found] == ["KILLED", "KILLED"]
    assert all(r.info.end_time for r in found)
    assert "ended without closing the run" in found[0].data.tags["error"]


def test_runs_of_living_processes_and_other_hosts_stay_open(project, client):
    experiment = client.get_experiment_by_name(NAME).experiment_id
    host = socket.gethostname()
    other = client.create_run(experiment, tags={tracking.PROCESS: f"other-{host}:1:0.0"})
    unknown = client.create_run(experiment)
    reused = client.create_run(experiment, tags={tracking.PROCESS: f"{host}:{os.getpid()}:1.0"})
    with tracking.run("mine") as mine:
        tracking.close_dead_runs(experiment)
        assert client.get_run(mine.info.run_id).info.status == "RUNNING"
    status = lambda run: client.get_run(run.info.run_id).info.status  # noqa: E731
    assert status(other) == status(unknown) == "RUNNING"
    assert status(reused) == "KILLED", "a process number that was given out again is not the run's"


def test_connect_makes_the_experiment_with_its_artifacts_beside_the_store(project, client):
    experiment = client.get_experiment_by_name(NAME)
    assert experiment.artifact_location == (project / "mlartifacts").as_uri()
    assert tracking.connect(project, NAME) == f"sqlite:///{project}/mlflow.db"
    assert client.get_experiment_by_name(NAME).experiment_id == experiment.experiment_id


def test_environment_names_another_store(project, tmp_path, monkeypatch):
    (project / "mlflow.db").rename(tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert tracking.connect(project, NAME).endswith("other.db")
    assert not (project / "mlflow.db").exists()


# --- stores that refuse -----------------------------------------------------------------------


def refused(project: Path) -> str:
    started = time.process_time()
    with pytest.raises(StoreError) as e:
        tracking.connect(project, NAME)
    assert time.process_time() - started < 5, "mlflow's own retries were waited for"
    text = str(e.value)
    assert "refuses:" in text and "set MLFLOW_TRACKING_URI to another store" in text
    assert "\n" not in text
    return text


def test_store_that_is_no_database(project):
    (project / "mlflow.db").write_text("not a database, but long enough to look at" * 100)
    assert "file is not a database" in refused(project)


def test_store_in_a_place_that_is_no_folder(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/LICENSE/mlflow.db")
    refused(project)


def test_store_that_may_only_be_read(project):
    """In a process without root's rights, as root writes where it likes."""
    code = (
        "import os, sys\n"
        "import presseco.tracking as t\n"
        "from pathlib import Path\n"
        "from presseco.errors import StoreError\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: t.connect(Path(sys.argv[1]), 'essai')\n"
        "except StoreError as e: print(e)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Path(shutil.copy(project / "mlflow.db", folder))
        store.chmod(0o444)
        Path(folder).chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60
        )
        Path(folder).chmod(0o755)
    assert "refuses: attempt to write a readonly database" in done.stdout, done.stderr


def test_server_that_is_not_there(project, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "Connection refused" in refused(project)


def test_full_disk_in_the_middle_of_a_run(project, client, small_files):
    size = (project / "mlflow.db").stat().st_size
    with small_files(size), pytest.raises(StoreError, match="refuses"), tracking.run("r"):
        for step in range(2000):
            mlflow.log_metrics({f"m{i}": 1.0 for i in range(50)}, step=step)
    [left] = runs(client)
    assert left.info.status in ("FAILED", "RUNNING")  # the store could not take the end either
    with tracking.run("again") as again:
        mlflow.log_metric("m", 1.0)
    assert client.get_run(again.info.run_id).info.status == "FINISHED"


def test_bad_argument_of_mlflow_is_told_in_one_line(client):
    with pytest.raises(StoreError, match="refuses"), tracking.run("r"):
        mlflow.log_param("k", 1)
        mlflow.log_param("k", 2)
    assert runs(client)[0].info.status == "FAILED"


def test_commit_of_a_folder(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    assert tracking.git_commit(tmp_path) == "none"
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    assert len(tracking.git_commit(tmp_path)) == 12
    (tmp_path / "a").write_text("2")
    assert tracking.git_commit(tmp_path).endswith("-dirty")
