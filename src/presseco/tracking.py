"""One MLflow run, from start to end: FINISHED, FAILED on an error, KILLED on an interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from presseco.errors import StoreError


def tracking_uri(root: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the SQLite file of the project folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def connect(root: Path, experiment: str) -> str:
    """Point mlflow at the store and the experiment; return the store's URI.

    Raises `StoreError` when the store cannot be opened or written.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = tracking_uri(root)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        if MlflowClient().get_experiment_by_name(experiment) is None:
            # A server decides itself where artifacts go; a local store keeps them beside it.
            place = None if "://" in uri and not uri.startswith("sqlite") else _artifacts(root)
            MlflowClient().create_experiment(experiment, artifact_location=place)
        mlflow.set_experiment(experiment)
    except (MlflowException, OSError) as e:
        raise StoreError(
            f"tracking store {uri} refuses: {str(e).splitlines()[0]}. Check that it can be written, "
            "or set MLFLOW_TRACKING_URI to another store."
        ) from e
    return uri


def _artifacts(root: Path) -> str:
    return (root.resolve() / "mlartifacts").as_uri()


@contextmanager
def run(name: str, *, nested: bool = False, tags: dict[str, str] | None = None) -> Iterator[Any]:
    """Open a run, and close it with the status that tells how its block ended.

    A SIGTERM inside the block becomes `KeyboardInterrupt`, so that the run is marked KILLED and
    does not stay RUNNING for ever.
    """
    active = mlflow.start_run(run_name=name, nested=nested, tags=tags)
    previous = _on_terminate()
    status = "FINISHED"
    try:
        yield active
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException as e:
        status = "FAILED"
        mlflow.set_tag("error", f"{type(e).__name__}: {e}"[:500])
        raise
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        mlflow.end_run(status)


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
