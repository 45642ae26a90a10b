"""The folder of one training under way: one process at a time, kept when it is cut off."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from presseco.config import Config
from presseco.errors import StoreError
from presseco.files import replacing


def work_folder(config: Config, digest: str) -> Path:
    """Return the folder of one experiment's unfinished work.

    `digest` stands for what the config only names: the articles, the files of the encoder, and those
    to distil from (`points.point_key`). With other weights under the same path it is another folder.
    """
    key = hashlib.sha256(f"{config.model_dump_json()}{digest}".encode()).hexdigest()[:10]
    return config.path("build/runs") / f"{config.name}-{key}"


@contextmanager
def working(config: Config, digest: str) -> Iterator[Path]:
    """Give the work folder; it goes when the block ends well, and waits for a resume when not.

    Raises `StoreError` when another process trains the very same experiment: both would write the
    same checkpoints.
    """
    folder = work_folder(config, digest)
    lock = FileLock(f"{folder}.lock")  # with_suffix would cut a name with a dot in it
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"{folder}: {config.name} with these settings is being trained by another process. "
            "Wait for it, or train another seed (--set seed=2)."
        ) from None
    except OSError as e:
        raise StoreError(f"{folder}: cannot be written: {e.strerror or e}.") from e
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def publish(built: Path, folder: Path) -> None:
    """Put a finished model where services look for it; the old one stays until then."""
    with replacing(folder) as new:
        shutil.move(built, new)
