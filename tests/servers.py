"""A real `mlflow server` for tests: started, killed, started again at the same address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from mlflow.tracking import MlflowClient

#: Seconds that a server has to answer on a busy machine (8 on a free core).
PATIENCE = 120


class Server:
    """An `mlflow server` with its own artifact store, on a port of 127.0.0.1."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder = folder
        self.store = store or f"sqlite:///{folder}/server.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, registry_uri=self.uri)

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--port", str(self.port), "--backend-store-uri", self.store]
        command += ["--artifacts-destination", str(self.folder / "files")]
        env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env=env, cwd=self.folder, start_new_session=True
            )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (URLError, OSError):
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text("utf-8")[-2000:])

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def runs(self, experiment: str = "presseco") -> dict[str, Any]:
        """Return the runs by the first word of their names; fails when two share it."""
        found = self.client.get_experiment_by_name(experiment)
        runs = self.client.search_runs([found.experiment_id]) if found else []
        names = [r.info.run_name.split(" · ")[0] for r in runs]
        assert len(set(names)) == len(names), names
        return dict(zip(names, runs, strict=True))

    def files(self, run: Any) -> set[str]:
        return {f.path for f in self.client.list_artifacts(run.info.run_id)}


def presseco(project: Path, server: str, *args: str) -> subprocess.Popen[str]:
    """Start the command in a project folder with a tracking server."""
    return python(project, server, "-m", "presseco", *args)


def python(project: Path, server: str, *args: str) -> subprocess.Popen[str]:
    """Start this Python in a project folder with a tracking server."""
    return subprocess.Popen(
        [sys.executable, *args],
        cwd=project,
        env=os.environ | {"MLFLOW_TRACKING_URI": server},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a command; return what it printed, on both streams."""
    out, errors = process.communicate(timeout=800)
    assert process.returncode == code, errors[-3000:]
    return out + errors
