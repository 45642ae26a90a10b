"""Where runs wait for a tracking server: a store on disk that a training writes.

A training that is tracked on a server writes to the disk only, so a server that is slow, away or
started again cannot harm it. sender.py sends what is new while the training runs; what it leaves
behind is sent by the next training or by `presseco sync`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.version import VERSION
from sqlalchemy.exc import SQLAlchemyError

from presseco.errors import StoreError
from presseco.files import replacing
from presseco.mirror import Ledger, Mirror
from presseco.network import knock
from presseco.process import close_all_runs
from presseco.server import impatient, is_server, reason, without_secret

#: Where spools lie in a project; `make clean` leaves them alone.
PLACE = "build/spool"
#: Seconds that a training waits while another makes the empty store (2 to 6 on a free core).
_FIRST_USE = 120.0
#: What mlflow and the network raise when a server is away or refuses.
TROUBLE = (MlflowException, OSError, SQLAlchemyError)


@dataclass(frozen=True)
class Spool:
    """A folder with an MLflow store, the files of its runs, and the ledger of what was sent."""

    folder: Path
    server: str
    experiment: str

    @property
    def uri(self) -> str:
        """Return the tracking URI of the store."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        """Return where the store keeps its files, as a URI."""
        return (self.folder / "artifacts").as_uri()

    def lock(self) -> FileLock:
        """Return the lock that whoever writes or sends this spool holds."""
        return FileLock(self.folder / "lock", timeout=0)

    def mirror(self) -> Mirror:
        """Return the copy on the server that MLFLOW_TRACKING_URI names, else on the spool's own.

        Each address has its ledger: a server that moved is looked through again, nothing is twice.
        """
        given = os.environ.get("MLFLOW_TRACKING_URI", "")
        target = given if is_server(given) else self.server
        mark = hashlib.sha256(without_secret(target).encode()).hexdigest()[:8]
        return Mirror(self.uri, target, self.experiment, Ledger(self.folder / f"sent-{mark}.jsonl"))

    def remove(self) -> None:
        """Delete the folder: all of it is on the server."""
        shutil.rmtree(self.folder, ignore_errors=True)


def new_spool(root: Path, server: str, experiment: str) -> tuple[Spool, FileLock]:
    """Make an empty spool in the project folder, for one training; return it and its lock, held."""
    place = root.resolve() / PLACE
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    spool = Spool(place / f"{stamp}-{os.getpid()}", without_secret(server), experiment)
    empty = _empty_store(place)
    with replacing(spool.folder) as folder:
        folder.mkdir()
        shutil.copy(empty, folder / "mlflow.db")
        # Held before the folder has its name, so that no sync takes the spool for a forgotten one.
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
        about = {"server": spool.server, "experiment": experiment}
        (folder / "spool.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return spool, lock


def _empty_store(place: Path) -> Path:
    """Return a store with MLflow's tables and no run: made once, as it takes seconds."""
    store = place / f"empty-{VERSION}.db"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "empty.lock", timeout=_FIRST_USE):
        if not store.exists():
            with replacing(store) as new:
                MlflowClient(f"sqlite:///{new}").search_experiments()
                with contextlib.closing(sqlite3.connect(new)) as db:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store


def spools(root: Path) -> list[Spool]:
    """Return the spools of a project folder, oldest first."""
    found = []
    for file in sorted((root.resolve() / PLACE).glob("*/spool.json")):
        about = json.loads(file.read_text(encoding="utf-8"))
        found.append(Spool(file.parent, about["server"], about["experiment"]))
    return found


def send(spool: Spool) -> int:
    """Send a spool that no training holds, and remove it when all is sent; return the runs sent.

    Runs that are still RUNNING in it are closed as KILLED: whoever wrote them held the lock.
    Raises filelock's `Timeout` when its training still runs, and what mlflow raises when the server
    is away or refuses.
    """
    with spool.lock():
        mirror, sent = spool.mirror(), 0
        if found := mirror.local.get_experiment_by_name(spool.experiment):
            close_all_runs(found.experiment_id, mirror.local)
        if mirror.waiting():  # a training that failed before its first run left nothing
            knock(mirror.address)
            sent = mirror.send()
        if not mirror.waiting():
            spool.remove()
        return sent


def sync(root: Path) -> str:
    """Send all that waits in the project folder; return one line that says what was sent.

    Raises `StoreError` when something still waits because a server is away or refuses.
    """
    sent, busy, failed = 0, 0, []
    with impatient():
        for spool in spools(root):
            try:
                sent += send(spool)
            except Timeout:
                busy += 1
            except TROUBLE as e:
                failed.append(f"{spool.folder}: {spool.server}: {reason(e)}")
    if failed:
        raise StoreError(
            f"{sent} runs sent; {len(failed)} trainings wait, nothing is lost. {'; '.join(failed)}. "
            "Run `presseco sync` again when the server answers."
        )
    running = f"; {busy} running trainings send theirs themselves" if busy else ""
    return f"{sent} runs sent, nothing waits in {root.resolve() / PLACE}{running}"
