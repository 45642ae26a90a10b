"""Where runs wait for a tracking server: a store on disk that a training writes, and its sender.

A training that is tracked on a server writes to the disk only, so a server that is slow, away or
started again cannot harm it. A thread sends what is new every few seconds; what the training leaves
behind is sent by the next training or by `presseco sync`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
from presseco.process import close_dead_runs
from presseco.server import away, impatient, is_server, reason, without_secret

log = logging.getLogger("presseco")

#: Where spools lie in a project; `make clean` leaves them alone.
PLACE = "build/spool"
#: Seconds between two passes: what the UI is behind the training at most.
_EVERY = 5.0
#: Seconds that a training waits while another makes the empty store (2 to 6 on a free core).
_FIRST_USE = 120.0
_TROUBLE = (MlflowException, OSError, SQLAlchemyError)


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


def new_spool(root: Path, server: str, experiment: str) -> Spool:
    """Make an empty spool in the project folder, for one training."""
    place = root.resolve() / PLACE
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    spool = Spool(place / f"{stamp}-{os.getpid()}", without_secret(server), experiment)
    empty = _empty_store(place)
    with replacing(spool.folder) as folder:
        folder.mkdir()
        shutil.copy(empty, folder / "mlflow.db")
        about = {"server": spool.server, "experiment": experiment}
        (folder / "spool.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return spool


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

    Raises filelock's `Timeout` when its training still runs, and what mlflow raises when the server
    is away or refuses.
    """
    with spool.lock():
        mirror = spool.mirror()
        knock(mirror.address)
        if found := mirror.local.get_experiment_by_name(spool.experiment):
            close_dead_runs(found.experiment_id, mirror.local)
        sent = mirror.send()
        if not mirror.waiting():  # a run of another machine may still be running
            spool.remove()
        return sent


class Sender:
    """Sends a spool while its training runs; the training never waits for more than a run's number."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.mirror = spool.mirror()
        self.trouble = ""
        self._lock = spool.lock()
        self._lock.acquire()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="presseco-sender", daemon=True)

    @property
    def name(self) -> str:
        """Return the server's address as it may be printed."""
        return without_secret(self.mirror.address)

    def greet(self) -> None:
        """Look whether the server is there and takes our runs; say so when it is away.

        Raises `StoreError` when it answers and refuses: that is a mistake to tell at once.
        """
        try:
            with impatient():
                knock(self.mirror.address)
                self.mirror.server.get_experiment_by_name(self.spool.experiment)
        except _TROUBLE as e:
            if away(e):
                return self._note(e)
            self.close()
            self.spool.remove()
            raise StoreError(
                f"tracking server {self.name} refuses: {reason(e)}. "
                "Check its address and your rights, or set MLFLOW_TRACKING_URI to another store."
            ) from e

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def public_id(self, run_id: str) -> str:
        """Return the server's number of a run, or the run's own while the server is away.

        The server keeps the latter as the tag `spool`; `find_run` takes both.
        """
        if not self.trouble:
            try:
                return self.mirror.remote_id(run_id)
            except _TROUBLE as e:
                self._note(e)
        return run_id

    def finish(self) -> None:
        """Send the rest, and say what is sent or what waits."""
        self._over.set()
        self._thread.join()
        try:
            if self._pass() and not self.mirror.waiting():
                print(f"all runs sent to {self.mirror.page}")
                self.spool.remove()
            else:
                self._tell_waiting()
        finally:
            self.close()

    def close(self) -> None:
        """Let others send what is left."""
        self._lock.release()

    def _loop(self) -> None:
        others = [s for s in spools(self.spool.folder.parents[2]) if s != self.spool]
        while not self._over.wait(_EVERY):
            if self._pass() and others:
                _send_left(others)
                others = []

    def _pass(self) -> bool:
        try:
            knock(self.mirror.address)
            self.mirror.send()
        except _TROUBLE as e:
            self._note(e)
            return False
        if self.trouble:
            log.warning("tracking server %s is back", self.name)
        self.trouble = ""
        return True

    def _note(self, error: Exception) -> None:
        if not self.trouble:
            state = "is away" if away(error) else "refuses"
            log.warning(
                "tracking server %s %s (%s). The training goes on; its runs wait in %s",
                self.name,
                state,
                reason(error),
                self.spool.folder,
            )
        self.trouble = reason(error)

    def _tell_waiting(self) -> None:
        log.warning(
            "%d runs wait in %s: %s (%s). `presseco sync` or the next training sends them",
            len(self.mirror.waiting()),
            self.spool.folder,
            self.name,
            self.trouble,
        )


def _send_left(others: list[Spool]) -> None:
    """Send what earlier trainings left behind."""
    for spool in others:
        with contextlib.suppress(Timeout, *_TROUBLE):  # `presseco sync` tells what is wrong
            send(spool)


#: The open senders of this process, by the URI of their store.
_OPEN: dict[str, Sender] = {}


def open_spool(root: Path, server: str, experiment: str) -> Spool:
    """Make a spool for the training of this process; what is written to it goes to `server`."""
    sender = Sender(new_spool(root, server, experiment))
    sender.greet()
    _OPEN[sender.spool.uri] = sender
    return sender.spool


@contextmanager
def sending(uri: str) -> Iterator[bool]:
    """Send what the block writes to the store `uri`, if it is a spool; gives whether it is one."""
    sender = _OPEN.pop(uri, None)
    if not sender:
        yield False
        return
    _OPEN[uri] = sender
    with impatient():
        sender.start()
        try:
            yield True
        finally:
            del _OPEN[uri]
            sender.finish()


def public_id(uri: str, run_id: str) -> str:
    """Return the number that a run of the store `uri` has for others: on the server, if it has one."""
    sender = _OPEN.get(uri)
    return sender.public_id(run_id) if sender else run_id


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
            except _TROUBLE as e:
                failed.append(f"{spool.folder}: {spool.server}: {reason(e)}")
    if failed:
        raise StoreError(
            f"{sent} runs sent; {len(failed)} trainings wait, nothing is lost. {'; '.join(failed)}. "
            "Run `presseco sync` again when the server answers."
        )
    running = f"; {busy} running trainings send theirs themselves" if busy else ""
    return f"{sent} runs sent, nothing waits in {root.resolve() / PLACE}{running}"
