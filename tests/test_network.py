"""Does anybody listen there?"""

from __future__ import annotations

import socket
import time

import pytest

from local_hub import serving
from presseco.network import PATIENCE, knock


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_host_that_answers():
    with serving({}) as hub:
        knock(hub.url)


def test_host_that_refuses():
    with pytest.raises(ConnectionRefusedError):
        knock(f"http://{closed_port()}/x")


def test_host_that_does_not_exist():
    with pytest.raises(OSError):
        knock("https://nothing.invalid")


def test_host_that_keeps_silent_is_given_up():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with socket.create_connection(deaf.getsockname()):  # fills the queue of the listener
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                knock(f"http://127.0.0.1:{deaf.getsockname()[1]}")
            assert time.monotonic() - started < PATIENCE + 2


def test_proxy_is_asked_instead_unless_the_host_is_exempt(monkeypatch):
    with serving({}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        knock("http://hub.invalid")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(ConnectionRefusedError):
            knock(f"http://{closed_port()}")
