"""A hub on this machine that keeps datasets in memory: what its own client asks of the real one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_of_the_test"


@dataclass
class Repository:
    """One dataset: whether only its owner sees it, and its files as they are now."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


class Hub:
    """A server on a free port; `repositories` is what it holds; `asked`, `refused`: addresses."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.refused: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        self.hub.asked.append(path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = parse_qs(url.query)
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        for pattern, answer in (
            (r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/[^/]+", self._write),
            (r"/api/datasets/([^/]+/[^/]+)/(tree|paths-info)/([^/]+)/?(.*)", self._list),
            (r"/api/datasets/([^/]+/[^/]+)(?:/revision/[^/]+)?", self._info),
            (r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self._file),
            (r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/storage/([^/]+/[^/]+)/([0-9a-f]{64})", self._store),
        ):
            if found := re.fullmatch(pattern, path):
                name, *rest = found.groups()
                repository = self.hub.repositories.get(name)
                mine = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                mine = mine or answer == self._store  # its address is the right, as with S3
                if repository is None or (repository.private and not mine):
                    return self._error(404, "RepoNotFound", "Repository not found")
                return answer(name, repository, *rest)
        self.hub.refused.append(f"{self.command} {path}")
        return self._error(404, "EntryNotFound", "unknown address")

    def _create(self, asked: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "", "Invalid username or password.")
        name = asked["name"] if "/" in asked["name"] else f"{asked['organization']}/{asked['name']}"
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories.setdefault(name, Repository(bool(private)))
        return self._json({"url": f"{self.hub.url}/datasets/{name}", "name": name})

    def _write(self, name: str, repository: Repository, what: str) -> None:
        if what == "preupload":
            files = json.loads(self.body)["files"]
            told = [
                {
                    "path": f["path"],
                    "uploadMode": "regular" if f["path"].endswith(".md") else "lfs",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            return self._json({"files": told})
        for line in self.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                repository.files[value["path"]] = repository.objects[value["oid"]]
            elif row["key"] == "deletedFile":
                del repository.files[value["path"]]
        repository.commits += 1
        sha = repository.sha
        address = f"{self.hub.url}/datasets/{name}/commit/{sha}"
        return self._json({"success": True, "commitOid": sha, "commitUrl": address})

    def _batch(self, name: str, _: Repository) -> None:
        objects = [
            {
                "oid": o["oid"],
                "size": o["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/storage/{name}/{o['oid']}"}},
            }
            for o in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, _: str, repository: Repository, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._error(400, "", "the content is not what its name says")
        repository.objects[oid] = self.body
        return self._json({})

    def _info(self, name: str, repository: Repository) -> None:
        files = [{"rfilename": path} for path in sorted(repository.files)]
        told = {"id": name, "sha": repository.sha, "private": repository.private, "siblings": files}
        self._json(told | {"gated": False, "disabled": False, "tags": [], "downloads": 0})

    def _list(self, _: str, repository: Repository, what: str, revision: str, folder: str) -> None:
        if what == "paths-info":
            asked = self.body.decode()
            names = json.loads(asked)["paths"] if asked[:1] == "{" else parse_qs(asked)["paths"]
            known = {p for f in repository.files for p in (f, *map(str, PurePosixPath(f).parents))}
            return self._json([self._entry(repository, n) for n in names if n in known])
        deep = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        under = f"{folder}/" if folder else ""
        found: dict[str, Any] = {}
        for path in sorted(repository.files):
            if path.startswith(under):
                rest = path[len(under) :].split("/")
                for depth in range(1, len(rest) + 1 if deep else 2):
                    entry = under + "/".join(rest[:depth])
                    found[entry] = self._entry(repository, entry)
        if not found and folder:
            return self._error(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return self._json(list(found.values()))

    def _entry(self, repository: Repository, path: str) -> dict[str, Any]:
        if path not in repository.files:
            return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        content = repository.files[path]
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path, "oid": oid, "size": len(content)}

    def _file(self, _: str, repository: Repository, path: str) -> None:
        if path not in repository.files:
            return self._error(404, "EntryNotFound", "Entry not found")
        content, status = repository.files[path], 200
        headers = {"X-Repo-Commit": repository.sha, "Accept-Ranges": "bytes"}
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            start, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            content, status = content[start : last + 1], 206
        return self._send(status, content, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
