"""One MLflow run, from start to end: FINISHED, FAILED on an error, KILLED on an interrupt."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from presseco.errors import StoreError
from presseco.mirror import SPOOL
from presseco.network import knock
from presseco.process import PROCESS, close_dead_runs, this_process
from presseco.sender import open_spool, public_id, sending
from presseco.server import impatient, is_server, reason, without_secret
from presseco.views import prepare_pages

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
    """Point mlflow at the store and the experiment, to read them; return the store's URI.

    Runs that a killed process left RUNNING are marked KILLED. Raises `StoreError` when the store
    cannot be opened or written.
    """
    uri = tracking_uri(root)
    # A server decides itself where artifacts go; a local store keeps them beside it.
    place = None if "://" in uri and not uri.startswith("sqlite") else _artifacts(root)
    with impatient():
        _open(uri, experiment, place)
    return uri


def record(root: Path, experiment: str) -> str:
    """Point mlflow at where the next top-level `run` is to be written; return the store's URI.

    That is the store itself, or for a server a spool on disk that is sent to it while the run lasts:
    a server that is away harms no training. Raises `StoreError` when the store refuses.
    """
    uri = tracking_uri(root)
    if not is_server(uri):
        return connect(root, experiment)
    _quiet()
    spool = open_spool(root, uri, experiment)
    _open(spool.uri, experiment, spool.artifacts)
    return uri


def run_id() -> str:
    """Return the active run's number for others: the server's, where it is sent to one."""
    return public_id(mlflow.get_tracking_uri(), mlflow.active_run().info.run_id)


def find_run(number: str) -> Any:
    """Return the run with this number, on a server also by the number that it had on disk."""
    client = MlflowClient()
    try:
        return client.get_run(number)
    except MlflowException:
        every = [e.experiment_id for e in client.search_experiments()]
        found = client.search_runs(every, f"tags.{SPOOL} = '{number}'") if number.isalnum() else []
        if not found:
            raise
        return found[0]


def _quiet() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Its errors are raised as well; logged, each comes with a stack trace before our one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _open(uri: str, experiment: str, artifacts: str | None) -> None:
    _quiet()
    try:
        _check_store(uri)
        _use(uri)
        with _alone(uri):
            if MlflowClient().get_experiment_by_name(experiment) is None:
                _create_experiment(experiment, artifacts)
            found = mlflow.set_experiment(experiment)
            prepare_pages(MlflowClient(), experiment)
        close_dead_runs(found.experiment_id)
    except (MlflowException, OSError, sqlite3.Error, SQLAlchemyError, Timeout) as e:
        raise _refusal(uri, e) from e


def _use(uri: str) -> None:
    # mlflow also writes the URI to the environment, where it would outlive this project's turn.
    given = os.environ.pop("MLFLOW_TRACKING_URI", None)
    mlflow.set_tracking_uri(uri)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if given is not None:
        os.environ["MLFLOW_TRACKING_URI"] = given


def _check_store(uri: str) -> None:
    """Fail at once where mlflow's own client retries for minutes: no writable file, no server."""
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(file, timeout=_LOCK_WAIT)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("CREATE TABLE presseco_may_write (x)")  # locking alone needs no right
            store.rollback()
    elif is_server(uri):
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
    return StoreError(
        f"tracking store {without_secret(uri)} refuses: {reason(error)}. Check that it can be "
        "written and has room, or set MLFLOW_TRACKING_URI to another store."
    )


@contextmanager
def run(name: str, *, nested: bool = False, tags: dict[str, str] | None = None) -> Iterator[Any]:
    """Open a run, and close it with the status that tells how its block ended.

    A SIGTERM inside the block becomes `KeyboardInterrupt`, so that the run is marked KILLED and
    does not stay RUNNING for ever. Raises `StoreError` when the store refuses in the middle. With
    `record`, the end of the top-level run sends what the server has not got yet.
    """
    if nested:
        with _run(name, True, tags or {}) as active:
            yield active
        return
    with sending(mlflow.get_tracking_uri()) as spooled:
        try:
            with _run(name, False, tags or {}) as active:
                yield active
        finally:
            if spooled:  # its store goes once it is sent; what is read from now on is the server's
                _use(os.environ["MLFLOW_TRACKING_URI"])


@contextmanager
def _run(name: str, nested: bool, tags: dict[str, str]) -> Iterator[Any]:
    active = _start(name, nested, tags)
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
            run_name=name, nested=nested, tags={PROCESS: this_process(), **tags}
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
    """Return what can change a score beside code and data: versions, threads, device."""
    import torch  # not at the top: reading a store needs none

    cuda = torch.cuda.is_available()
    return {p: importlib.metadata.version(p) for p in PACKAGES} | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),  # sums are parted among them, and rounded
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }
