"""One question before a client that retries for minutes: does anybody listen there?"""

from __future__ import annotations

import os
import socket
from urllib.parse import urlparse
from urllib.request import proxy_bypass

#: Seconds that a host has to accept a connection; clients of hubs and servers wait far longer.
PATIENCE = 5.0


def knock(url: str) -> None:
    """Open and close one connection to the host of `url`, or to the proxy that leads there.

    Raises `OSError` when nobody answers within `PATIENCE` seconds.
    """
    there = urlparse(url)
    proxy = os.environ.get(f"{there.scheme}_proxy") or os.environ.get(
        f"{there.scheme.upper()}_PROXY"
    )
    if proxy and not proxy_bypass(there.hostname or ""):
        there = urlparse(proxy)
    port = there.port or (443 if there.scheme == "https" else 80)
    socket.create_connection((there.hostname or "", port), timeout=PATIENCE).close()
