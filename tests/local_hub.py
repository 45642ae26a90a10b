"""A hub of models on 127.0.0.1: the few routes that a download needs, served from a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `models`, a folder a name; `log` holds the requests, `broken` makes it answer 500."""

    daemon_threads = True

    def __init__(self, models: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = models
        self.log: list[str] = []
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(models: dict[str, Path]) -> Iterator[Hub]:
    """Run a hub while the block runs."""
    hub = Hub(models)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.log.append(f"{self.command} {path}")
        if self.server.broken:
            return self._send(500, b"", {}, body)
        for name, folder in self.server.models.items():
            if path.startswith(f"/api/models/{name}/tree/"):
                return self._json([_entry(f) for f in sorted(folder.iterdir())], body)
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                files = [{"rfilename": f.name} for f in sorted(folder.iterdir())]
                return self._json({"id": name, "sha": COMMIT, "siblings": files}, body)
            for revision in ("main", COMMIT):
                file = folder / path.removeprefix(f"/{name}/resolve/{revision}/")
                if path.startswith(f"/{name}/resolve/{revision}/") and file.is_file():
                    headers = {"ETag": f'"{_entry(file)["oid"]}"', "X-Repo-Commit": COMMIT}
                    return self._send(200, file.read_bytes(), headers, body)
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _json(self, value: Any, body: bool) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _entry(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return {"type": "file", "path": file.name, "size": len(data), "oid": git}
