"""A tracking server over HTTP: is it one, is it away, and how long its answers are waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from mlflow.exceptions import MlflowException

#: Settings of mlflow's HTTP client while we ask or send: its own (7 attempts of 120 s each) would
#: hold a command up for minutes. A large file may take 30 s to be stored; a pass is tried again.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: Too many requests: the server asks to come back later.
_LATER = 429


def is_server(uri: str) -> bool:
    """Return whether a tracking URI names a server, and not a file or a database."""
    return uri.startswith(("http://", "https://"))


def away(error: Exception) -> bool:
    """Return whether an error means that the server cannot answer now, not that it refuses."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return bool(status >= 500 or status == _LATER)
    return isinstance(error, OSError)


def reason(error: Exception) -> str:
    """Return the first line of an error, cut to what a line of a log holds."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def without_secret(uri: str) -> str:
    """Return the URI without user name and password: what may be written down or printed."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri  # and not put together again: sqlite:////tmp/x would lose two slashes
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def impatient() -> Iterator[None]:
    """Let mlflow's HTTP client give up soon inside the block; what the user has set stays."""
    ours = {k: v for k, v in _PATIENCE.items() if k not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            os.environ.pop(key, None)
