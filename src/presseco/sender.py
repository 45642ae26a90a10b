"""Send a training's spool to its server while the training runs, in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from presseco.errors import StoreError
from presseco.network import knock
from presseco.server import away, impatient, reason, without_secret
from presseco.spool import TROUBLE, Spool, new_spool, send, spools

log = logging.getLogger("presseco")

#: Seconds between two passes: what the UI is behind the training at most.
_EVERY = 5.0
#: A pause lasts as many times a pass' own processor time: the training keeps 95 % of the core.
_SHARE = 20


class Sender:
    """Sends a spool while its training runs; the training never waits for more than a run's number."""

    def __init__(self, spool: Spool, lock: FileLock) -> None:
        self.spool, self._lock = spool, lock
        self.mirror = spool.mirror()
        self.trouble = ""
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
        except TROUBLE as e:
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
            except TROUBLE as e:
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
        pause = _EVERY
        while not self._over.wait(pause):
            started = time.thread_time()
            if self._pass() and others:
                _send_left(others)
                others = []
            pause = max(_EVERY, _SHARE * (time.thread_time() - started))

    def _pass(self) -> bool:
        try:
            knock(self.mirror.address)
            self.mirror.send()
        except TROUBLE as e:
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
        with contextlib.suppress(Timeout, *TROUBLE):  # `presseco sync` tells what is wrong
            send(spool)


#: The open senders of this process, by the URI of their store.
_OPEN: dict[str, Sender] = {}


def open_spool(root: Path, server: str, experiment: str) -> Spool:
    """Make a spool for the training of this process; what is written to it goes to `server`."""
    sender = Sender(*new_spool(root, server, experiment))
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
