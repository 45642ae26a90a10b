"""Fetch web pages the way a publisher would ask for: robots.txt, pauses, a cache, ETags."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from presseco import __version__
from presseco.document import MAX_BYTES
from presseco.files import replacing, write_text

#: Answers that stay: asking again tomorrow would bother the server for nothing.
_FINAL = (401, 402, 403, 404, 410, 451)
#: RFC 9309: a robots.txt may be kept for a day.
_ROBOTS_SECONDS = 24 * 3600
#: Longest pause taken within a run; a server that asks for more is left for the next run.
_LONGEST_PAUSE = 120.0


class Refused(Exception):  # noqa: N818 - the server's word, not a fault of ours
    """A page that was not got: `reason` for quarantine, `final` when asking again is no use."""

    def __init__(self, reason: str, detail: str, *, final: bool) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.final = reason, detail, final


@dataclass(frozen=True)
class Settings:
    """How to behave: seconds between two requests to one host, time-out, who we are."""

    contact: str
    seconds: float
    timeout: float

    @property
    def agent(self) -> str:
        """Return the User-Agent; its first word is what robots.txt may name."""
        return f"presseco/{__version__} (+{self.contact})"


class Client:
    """One polite visitor; `cache` is a folder that keeps pages between runs."""

    def __init__(
        self, settings: Settings, cache: Path, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._settings, self._cache, self._sleep = settings, cache, sleep
        self._next: dict[str, float] = {}
        self._rules: dict[str, Any] = {}
        self._opener = urllib.request.build_opener(_Redirects(self._admit))
        # robots.txt may move without asking robots.txt, or the question would never end.
        self._door = urllib.request.build_opener(_Redirects(_host))

    def page(self, url: str) -> bytes:
        """Return a page; one in the cache is never fetched again."""
        kept = self._kept(url)
        return kept[0] if kept else self._fetch(url, {})

    def feed(self, url: str) -> bytes:
        """Return a feed; the server is asked only for a newer version than the cache holds."""
        kept = self._kept(url)
        if kept is None:
            return self._fetch(url, {})
        body, memory = kept
        marks = {"If-None-Match": memory["etag"], "If-Modified-Since": memory["last_modified"]}
        try:
            return self._fetch(url, {k: v for k, v in marks.items() if v})
        except urllib.error.HTTPError as e:
            if e.code != 304:
                raise
            return body

    def _fetch(self, url: str, headers: dict[str, str]) -> bytes:
        self._admit(url)
        body, answer = self._ask(self._opener, url, headers)
        self._keep(url, body, answer)
        return body

    def _keep(self, url: str, body: bytes, answer: Message) -> None:
        memory = {
            "url": url,
            "etag": answer.get("ETag", ""),
            "last_modified": answer.get("Last-Modified", ""),
            "fetched": int(time.time()),
        }
        with replacing(self._file(url, "body")) as new:
            new.write_bytes(body)
        write_text(self._file(url, "json"), json.dumps(memory))  # last: it vouches for the body

    def _ask(
        self, opener: urllib.request.OpenerDirector, url: str, headers: dict[str, str]
    ) -> tuple[bytes, Message]:
        request = urllib.request.Request(
            url, headers={"User-Agent": self._settings.agent, **headers}
        )
        try:
            with opener.open(request, timeout=self._settings.timeout) as answer:
                body: bytes = answer.read(MAX_BYTES + 1)
                if len(body) > MAX_BYTES:
                    raise Refused("too_large", f"{url}: over {MAX_BYTES:,} bytes", final=True)
                return body, answer.headers
        except urllib.error.HTTPError as e:
            if e.code == 304:
                raise
            self._heed(url, e.code, e.headers.get("Retry-After", ""))
            final = e.code in _FINAL
            raise Refused(f"http_{e.code}", f"{url}: {e.reason}", final=final) from None
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise Refused("unreachable", f"{url}: {e}"[:300], final=False) from None

    def _admit(self, url: str) -> None:
        """Raise `Refused` unless robots.txt lets us in; else wait until it is our turn."""
        host = _host(url)
        rules = self._robots(f"{urlsplit(url).scheme}://{host}")
        if not rules.can_fetch(url, self._settings.agent):
            raise Refused("robots", f"robots.txt of {host} forbids {url}", final=True)
        pause = max(self._settings.seconds, rules.crawl_delay(self._settings.agent) or 0.0)
        self._wait(host, pause)

    def _wait(self, host: str, pause: float) -> None:
        now = time.monotonic()
        turn = max(self._next.get(host, 0.0), now)
        if turn - now > _LONGEST_PAUSE:
            raise Refused(
                "busy", f"{host} asks for a pause of {turn - now:.0f} s; next run", final=False
            )
        if turn > now:
            self._sleep(turn - now)
        self._next[host] = turn + pause

    def _heed(self, url: str, code: int, retry_after: str) -> None:
        """Stay away from a host that is overloaded for as long as it asks."""
        if code not in (429, 503):
            return
        try:
            seconds = float(retry_after)
        except ValueError:
            seconds = _until(retry_after)
        host = urlsplit(url).netloc
        self._next[host] = max(self._next.get(host, 0.0), time.monotonic() + seconds)

    def _robots(self, origin: str) -> Any:
        """Return a site's rules; RFC 9309: absent means all may be read, broken means nothing."""
        from protego import Protego

        if origin not in self._rules:
            url = f"{origin}/robots.txt"
            kept = self._kept(url)
            if kept and time.time() - kept[1]["fetched"] < _ROBOTS_SECONDS:
                body = kept[0]
            else:
                try:
                    body = self._ask_robots(url, urlsplit(origin).netloc)
                except Refused as e:
                    self._rules[origin] = e  # not asked again in this run
                    raise
            self._rules[origin] = Protego.parse(body.decode("utf-8", "replace"))
        if isinstance(self._rules[origin], Refused):
            raise self._rules[origin]
        return self._rules[origin]

    def _ask_robots(self, url: str, host: str) -> bytes:
        self._wait(host, self._settings.seconds)
        try:
            body, answer = self._ask(self._door, url, {})
        except Refused as e:
            code = e.reason.removeprefix("http_")
            if not (code.isdigit() and 400 <= int(code) < 500 and code != "429"):
                raise
            body, answer = b"", Message()
        self._keep(url, body, answer)
        return body

    def _kept(self, url: str) -> tuple[bytes, dict[str, Any]] | None:
        memory = self._file(url, "json")
        if not memory.exists():
            return None
        return self._file(url, "body").read_bytes(), json.loads(memory.read_text(encoding="utf-8"))

    def _file(self, url: str, suffix: str) -> Path:
        name = hashlib.sha256(url.encode()).hexdigest()
        return self._cache / name[:2] / f"{name}.{suffix}"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only where robots.txt of the new place lets us in."""

    def __init__(self, admit: Callable[[str], object]) -> None:
        self._admit = admit

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        self._admit(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _host(url: str) -> str:
    """Return host and port of a web address; refuse ftp:, file: and the like."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Refused("not_http", f"{url}: only http and https are fetched", final=True)
    return parts.netloc


def _until(date: str) -> float:
    """Return the seconds until an HTTP date; a minute when none or no date is given."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (TypeError, ValueError):
        return 60.0
