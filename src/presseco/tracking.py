"""One MLflow run, from start to end: FINISHED, FAILED on an error, KILLED on an interrupt."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
import psutil
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from presseco.errors import StoreError
from presseco.network import knock

#: Run tag `host:pid:start`: the process that a RUNNING run depends on.
PROCESS = "process"
#: Seconds by which two readings of one process' start may differ (the clock is set now and then).
_DRIFT = 2.0
#: Seconds that a write waits for another process' write to the same SQLite file.
_LOCK_WAIT = 20.0
#: Seconds that a process waits while another makes the tables of a new store (2 to 6 on a free CPU).
_FIRST_USE = 120.0


#: Packages whose version can change a score; their versions are logged with every run.
PACKAGES = ("torch", "transformers", "tokenizers", "scikit-learn", "numpy", "datasets")


def tracking_uri(root: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the SQLite file of the project folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def connect(root: Path, experiment: str) -> str:
    """Point mlflow at the store and the experiment; return the store's URI.

    Runs that a killed process left RUNNING are marked KILLED. Raises `StoreError` when the store
    cannot be opened or written.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Its errors are raised as well; logged, each comes with a stack trace before our one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = tracking_uri(root)
    try:
        _check_store(uri)
        _use(uri)
        with _alone(uri):
            if MlflowClient().get_experiment_by_name(experiment) is None:
                # A server decides itself where artifacts go; a local store keeps them beside it.
                place = None if "://" in uri and not uri.startswith("sqlite") else _artifacts(root)
                _create_experiment(experiment, place)
            found = mlflow.set_experiment(experiment)
        close_dead_runs(found.experiment_id)
    except (MlflowException, OSError, sqlite3.Error, SQLAlchemyError, Timeout) as e:
        raise _refusal(uri, e) from e
    return uri


def _use(uri: str) -> None:
    # mlflow also writes the URI to the environment, where it would outlive this project's turn.
    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if given is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def _check_store(uri: str) -> None:
    """Fail at once where mlflow's own client retries for minutes: no writable file, no server."""
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(file, timeout=_LOCK_WAIT)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("CREATE TABLE presseco_may_write (x)")  # locking alone needs no right
            store.rollback()
    elif uri.startswith(("http://", "https://")):
        knock(uri)


def _alone(uri: str) -> contextlib.AbstractContextManager[Any]:
    """Let one process at a time open a SQLite store: the first makes tables, and two would clash."""
    if not uri.startswith("sqlite:///"):
        return contextlib.nullcontext()
    return FileLock(uri.removeprefix("sqlite:///") + ".lock", timeout=_FIRST_USE)


def _create_experiment(name: str, place: str | None) -> None:
    try:
        MlflowClient().create_experiment(name, artifact_location=place)
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster: as good
            raise


def _artifacts(root: Path) -> str:
    return (root.resolve() / "mlartifacts").as_uri()


def _refusal(uri: str, error: Exception) -> StoreError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return StoreError(
        f"tracking store {uri} refuses: {reason}. Check that it can be written and has room, "
        "or set MLFLOW_TRACKING_URI to another store."
    )


def close_dead_runs(experiment_id: str) -> list[str]:
    """Mark the RUNNING runs of this host whose process is gone as KILLED; return their ids."""
    client = MlflowClient()
    running = client.search_runs(
        [experiment_id], f"attributes.status = 'RUNNING' and tags.{PROCESS} LIKE '{_host()}:%'"
    )
    dead = [r.info.run_id for r in running if not _alive(r.data.tags[PROCESS])]
    for run_id in dead:
        client.set_tag(run_id, "error", "the process ended without closing the run")
        client.set_terminated(run_id, "KILLED")
    return dead


def _host() -> str:
    # The colon parts the tag's fields, the quote would end the search filter's string.
    return socket.gethostname().replace(":", "-").replace("'", "-")


def _this_process() -> str:
    me = psutil.Process()
    return f"{_host()}:{me.pid}:{me.create_time():.1f}"


def _alive(process: str) -> bool:
    """Return whether the process of a `PROCESS` tag of this host still runs."""
    _, pid, started = process.rsplit(":", 2)
    try:
        found = psutil.Process(int(pid))
        same = abs(found.create_time() - float(started)) <= _DRIFT
        return bool(same and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def run(name: str, *, nested: bool = False, tags: dict[str, str] | None = None) -> Iterator[Any]:
    """Open a run, and close it with the status that tells how its block ended.

    A SIGTERM inside the block becomes `KeyboardInterrupt`, so that the run is marked KILLED and
    does not stay RUNNING for ever. Raises `StoreError` when the store refuses in the middle.
    """
    active = _start(name, nested, tags or {})
    previous = _on_terminate()
    status = "FAILED"
    try:
        yield active
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException as e:
        with contextlib.suppress(Exception):  # the error itself matters more than its tag
            mlflow.set_tag("error", f"{type(e).__name__}: {e}"[:500])
        if isinstance(e, MlflowException):
            raise _refusal(mlflow.get_tracking_uri(), e) from e
        raise
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        _end(status)


def _start(name: str, nested: bool, tags: dict[str, str]) -> Any:
    try:
        return mlflow.start_run(
            run_name=name, nested=nested, tags={PROCESS: _this_process(), **tags}
        )
    except MlflowException as e:
        raise _refusal(mlflow.get_tracking_uri(), e) from e


def _end(status: str) -> None:
    try:
        mlflow.end_run(status)
    except MlflowException as e:
        if status == "FINISHED":  # otherwise the error under way says more
            raise _refusal(mlflow.get_tracking_uri(), e) from e


def _on_terminate() -> Any:
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns the signals decides
        return None


def git_commit(root: Path) -> str:
    """Return the commit of the project folder, `-dirty` if changed, `none` outside git."""
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def environment() -> dict[str, str]:
    """Return the versions of the packages that can change a score."""
    return {p: importlib.metadata.version(p) for p in PACKAGES}
