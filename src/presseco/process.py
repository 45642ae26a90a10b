"""Which process a run depends on, and what becomes of the run when that process is gone."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import psutil
from mlflow.tracking import MlflowClient

#: Run tag `host:pid:start`: the process that a RUNNING run depends on.
PROCESS = "process"
#: Seconds by which two readings of one process' start may differ (the clock is set now and then).
_DRIFT = 2.0


def this_process() -> str:
    """Return the `PROCESS` tag of this process."""
    me = psutil.Process()
    return f"{_host()}:{me.pid}:{me.create_time():.1f}"


def close_dead_runs(experiment_id: str, client: MlflowClient | None = None) -> list[str]:
    """Mark the RUNNING runs of this host whose process is gone as KILLED; return their ids."""
    client = client or MlflowClient()
    running = client.search_runs(
        [experiment_id], f"attributes.status = 'RUNNING' and tags.{PROCESS} LIKE '{_host()}:%'"
    )
    return _kill(client, [r for r in running if not _alive(r.data.tags[PROCESS])])


def close_all_runs(experiment_id: str, client: MlflowClient) -> list[str]:
    """Mark all RUNNING runs as KILLED, whatever host they name; return their ids.

    For a store that nobody else writes: a container that is gone had another name.
    """
    return _kill(client, client.search_runs([experiment_id], "attributes.status = 'RUNNING'"))


def _kill(client: MlflowClient, dead: Iterable[Any]) -> list[str]:
    ids = [r.info.run_id for r in dead]
    for run_id in ids:
        client.set_tag(run_id, "error", "the process ended without closing the run")
        client.set_terminated(run_id, "KILLED")
    return ids


def _host() -> str:
    # The colon parts the tag's fields, the quote would end the search filter's string.
    return socket.gethostname().replace(":", "-").replace("'", "-")


def _alive(process: str) -> bool:
    """Return whether the process of a `PROCESS` tag of this host still runs."""
    _, pid, started = process.rsplit(":", 2)
    try:
        found = psutil.Process(int(pid))
        same = abs(found.create_time() - float(started)) <= _DRIFT
        return bool(same and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
