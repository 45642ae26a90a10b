"""Feeds against a real web server on this machine: full text, politeness, memory, refusals."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from presseco.collect import collect
from presseco.document import MAX_BYTES
from presseco.polite import Client, Refused, Settings
from presses import CONFIG, lines, source, texts

ARTICLES = texts(4)


@dataclass
class Site:
    """A newspaper: what it serves by path, and what it was asked."""

    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    url: str = ""

    def put(self, path: str, body: str | bytes, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else body.encode()
        self.pages[path] = (status, {k.replace("_", "-"): v for k, v in headers.items()}, data)

    def paths(self) -> list[str]:
        return [p for p, _ in self.asked]


@pytest.fixture
def site() -> Iterator[Site]:
    press = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            press.asked.append((self.path, dict(self.headers)))
            press.times.append(time.monotonic())
            status, headers, body = press.pages.get(self.path, (404, {}, b"nothing"))
            if status == 200 and headers.get("ETag") == self.headers.get("If-None-Match", "-"):
                status, body = 304, b""
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    press.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield press
    server.shutdown()
    server.server_close()


def page(text: str, title: str = "Titre") -> str:
    menu = "<nav>" + "<a href='/'>Rubrique Sport</a>" * 30 + "</nav>"
    body = "".join(f"<p>{p}</p>" for p in text.split("\n"))
    return f"<html><head><title>{title}</title></head><body>{menu}<article>{body}</article></body></html>"


def rss(site: Site, *paths: str, content: str = "") -> str:
    items = "".join(
        f"<item><title>Une de {p}</title><link>{site.url}{p}</link><author>Zoé Marchand</author>"
        f"<pubDate>Tue, 04 Mar 2025 08:00:00 GMT</pubDate><description>Chapeau.</description>{content}"
        "</item>"
        for p in paths
    )
    space = 'xmlns:content="http://purl.org/rss/1.0/modules/content/"'
    channel = f"<channel><title>Éco</title>{items}</channel>"
    return f"<?xml version='1.0'?><rss version='2.0' {space}>{channel}</rss>"


def feed(tmp_path: Path, site: Site, **changes: object):
    settings = {
        "kind": "feed",
        "urls": [f"{site.url}/rss"],
        "contact": "essai@example.org",
        "seconds_between_requests": 0.0,
        "timeout_seconds": 5.0,
        "cache": str(tmp_path / "cache"),
    }
    return source(tmp_path / "press", input=settings | changes)


def gather(settings):
    counts = collect(settings, CONFIG, workers=0, online=True)
    out = Path(str(settings.output))
    assert counts.read == counts.kept + counts.quarantined
    aside = {r["where"]: r["reason"] for r in lines(out / "quarantine.jsonl")}
    return lines(out / "articles.jsonl"), aside


def client(tmp_path: Path, seconds: float = 0.0, naps: list[float] | None = None) -> Client:
    settings = Settings("essai@example.org", seconds, 5.0)
    slept = naps if naps is not None else []
    return Client(settings, tmp_path / "cache", sleep=slept.append)


def refused(visitor: Client, url: str) -> Refused:
    with pytest.raises(Refused) as caught:
        visitor.page(url)
    return caught.value


# --- articles


def test_entries_become_articles_with_the_full_text_of_their_page(tmp_path, site):
    site.put("/rss", rss(site, "/1", "/2"))
    site.put("/1", page(ARTICLES[0]))
    site.put("/2", page(ARTICLES[1]))
    kept, aside = gather(feed(tmp_path, site))
    assert not aside
    assert {r["url"] for r in kept} == {f"{site.url}/1", f"{site.url}/2"}
    first = next(r for r in kept if r["url"].endswith("/1"))
    assert (first["title"], first["date"], first["writer"]) == (
        "Une de /1",
        "2025-03-04",
        "Zoé Marchand",
    )
    assert ARTICLES[0].split("\n")[1][:60] in first["text"]
    assert "Rubrique Sport" not in first["text"] and "Chapeau." not in first["text"]
    entry = lines(tmp_path / "out" / "ledger.jsonl")[0]
    assert (entry["url"], entry["redistribute_text"]) == (kept[0]["url"], False)


def test_an_atom_feed_that_carries_the_text_costs_no_further_request(tmp_path, site):
    body = "".join(f"<p>{p}</p>" for p in ARTICLES[0].split("\n")).replace("<", "&lt;")
    site.put(
        "/rss",
        f"""<feed xmlns="http://www.w3.org/2005/Atom"><title>Éco</title><entry><title>Titre</title>
        <link href="{site.url}/1"/><updated>2025-03-04T08:00:00Z</updated>
        <content type="html">{body}</content></entry></feed>""",
    )
    kept, _ = gather(feed(tmp_path, site))
    assert ARTICLES[0].split("\n")[1][:60] in kept[0]["text"]
    assert kept[0]["date"] == "2025-03-04"
    assert site.paths() == ["/robots.txt", "/rss"]


def test_the_next_run_fetches_new_entries_only(tmp_path, site):
    site.put("/rss", rss(site, "/1"), ETag='"a"')
    site.put("/1", page(ARTICLES[0]))
    site.put("/2", page(ARTICLES[1]))
    gather(feed(tmp_path, site))
    kept, _ = gather(feed(tmp_path, site))
    assert len(kept) == 1
    assert Counter(site.paths()) == {"/robots.txt": 1, "/rss": 2, "/1": 1}
    assert site.asked[-1][1]["If-None-Match"] == '"a"'
    site.put("/rss", rss(site, "/2"), ETag='"b"')
    kept, _ = gather(feed(tmp_path, site))
    assert {r["url"] for r in kept} == {f"{site.url}/1", f"{site.url}/2"}
    assert site.paths()[-2:] == ["/rss", "/2"]


def test_a_run_takes_at_most_so_many_and_the_next_goes_on(tmp_path, site):
    site.put("/rss", rss(site, "/0", "/1", "/2"))
    for i in range(3):
        site.put(f"/{i}", page(ARTICLES[i]))
    settings = feed(tmp_path, site, max_new_articles=2)
    assert len(gather(settings)[0]) == 2
    assert len(gather(settings)[0]) == 3


def test_what_is_gone_stays_gone_and_what_is_down_is_tried_again(tmp_path, site):
    site.put("/rss", rss(site, "/gone", "/down"))
    site.put("/gone", "", status=410)
    site.put("/down", "", status=500)
    kept, aside = gather(feed(tmp_path, site))
    assert not kept
    assert aside == {f"{site.url}/gone": "http_410", f"{site.url}/down": "http_500"}
    site.put("/gone", page(ARTICLES[0]))
    site.put("/down", page(ARTICLES[1]))
    kept, aside = gather(feed(tmp_path, site))
    assert [r["url"] for r in kept] == [f"{site.url}/down"]
    assert aside == {f"{site.url}/gone": "http_410"}
    assert site.paths().count("/gone") == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [("<html><body>Non</body></html>", "feed_broken"), ("", "feed_broken"), (None, "http_404")],
)
def test_a_feed_that_is_none_is_told_and_the_others_are_read(tmp_path, site, body, reason):
    if body is not None:
        site.put("/broken", body)
    site.put("/rss", rss(site, "/1"))
    site.put("/1", page(ARTICLES[0]))
    settings = feed(tmp_path, site, urls=[f"{site.url}/broken", f"{site.url}/rss"])
    kept, aside = gather(settings)
    assert len(kept) == 1
    assert aside == {f"{site.url}/broken": reason}


def test_a_feed_that_works_again_leaves_quarantine(tmp_path, site):
    gather(feed(tmp_path, site))
    site.put("/rss", rss(site, "/1"))
    site.put("/1", page(ARTICLES[0]))
    kept, aside = gather(feed(tmp_path, site))
    assert len(kept) == 1
    assert not aside


# --- politeness


def test_robots_txt_is_asked_once_and_obeyed(tmp_path, site):
    site.put(
        "/robots.txt", "User-agent: *\nDisallow: /*/prive\n\nUser-agent: presseco\nDisallow: /a\n"
    )
    site.put("/rss", rss(site, "/a/1", "/b/1"))
    site.put("/a/1", page(ARTICLES[0]))
    site.put("/b/1", page(ARTICLES[1]))
    kept, aside = gather(feed(tmp_path, site))
    assert [r["url"] for r in kept] == [f"{site.url}/b/1"]
    assert aside == {f"{site.url}/a/1": "robots"}
    assert "/a/1" not in site.paths()
    assert site.paths().count("/robots.txt") == 1


def test_wildcards_in_robots_txt_count(tmp_path, site):
    site.put("/robots.txt", "User-agent: *\nDisallow: /*?print=\n")
    site.put("/1?print=1", "x")
    assert refused(client(tmp_path), f"{site.url}/1?print=1").reason == "robots"


def test_a_redirect_into_a_forbidden_place_is_not_followed(tmp_path, site):
    site.put("/robots.txt", "User-agent: *\nDisallow: /prive\n")
    site.put("/1", "", status=302, Location="/prive/1")
    assert refused(client(tmp_path), f"{site.url}/1").reason == "robots"
    assert "/prive/1" not in site.paths()


def test_a_moved_robots_txt_is_followed_without_end(tmp_path, site):
    site.put("/robots.txt", "", status=301, Location="/r.txt")
    site.put("/r.txt", "User-agent: *\nDisallow: /a\n")
    assert refused(client(tmp_path), f"{site.url}/a").reason == "robots"


def test_a_robots_txt_that_fails_means_not_now(tmp_path, site):
    site.put("/robots.txt", "", status=503)
    site.put("/1", page(ARTICLES[0]))
    visitor = client(tmp_path)
    for _ in range(2):
        found = refused(visitor, f"{site.url}/1")
        assert (found.reason, found.final) == ("http_503", False)
    assert site.paths() == ["/robots.txt"]


def test_we_say_who_we_are(tmp_path, site):
    site.put("/1", "x")
    client(tmp_path).page(f"{site.url}/1")
    assert {h["User-Agent"] for _, h in site.asked} == {
        f"presseco/{__import__('presseco').__version__} (+essai@example.org)"
    }


def test_requests_to_one_host_keep_their_distance(tmp_path, site):
    for i in range(3):
        site.put(f"/{i}", "x")
    settings = Settings("essai@example.org", 0.2, 5.0)
    visitor = Client(settings, tmp_path / "cache")
    start = time.monotonic()
    for i in range(3):
        visitor.page(f"{site.url}/{i}")
    # From the start, not from one to the next: one that arrives late brings the next one nearer.
    assert len(site.times) == 4
    assert all(t - start >= 0.2 * i - 0.001 for i, t in enumerate(site.times))


def test_a_longer_crawl_delay_wins(tmp_path, site):
    site.put("/robots.txt", "User-agent: *\nCrawl-delay: 7\n")
    naps: list[float] = []
    visitor = client(tmp_path, 0.5, naps)
    for i in range(3):
        site.put(f"/{i}", "x")
        visitor.page(f"{site.url}/{i}")
    assert naps[-1] > 6


def test_a_host_that_asks_for_a_pause_gets_it(tmp_path, site):
    site.put("/1", "", status=429, Retry_After="30")
    site.put("/2", "x")
    naps: list[float] = []
    visitor = client(tmp_path, 0.0, naps)
    assert refused(visitor, f"{site.url}/1").final is False
    visitor.page(f"{site.url}/2")
    assert 29 < naps[-1] <= 30
    site.put("/3", "", status=503, Retry_After="3600")
    assert refused(visitor, f"{site.url}/3").reason == "http_503"
    assert refused(visitor, f"{site.url}/2-more").reason == "busy"
    assert "/2-more" not in site.paths()


def test_a_page_in_the_cache_is_not_fetched_again_by_a_new_visitor(tmp_path, site):
    site.put("/1", "un")
    client(tmp_path).page(f"{site.url}/1")
    site.put("/1", "deux")
    assert client(tmp_path).page(f"{site.url}/1") == b"un"
    assert site.paths() == ["/robots.txt", "/1"]


def test_last_modified_is_used_where_there_is_no_etag(tmp_path, site):
    when = "Tue, 04 Mar 2025 08:00:00 GMT"
    site.put("/rss", "x", Last_Modified=when)
    visitor = client(tmp_path)
    visitor.feed(f"{site.url}/rss")
    visitor.feed(f"{site.url}/rss")
    assert site.asked[-1][1]["If-Modified-Since"] == when


# --- hostile pages


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http:///x", "data:,x"])
def test_only_web_addresses_are_fetched(tmp_path, url):
    assert refused(client(tmp_path), url).reason == "not_http"


def test_a_redirect_to_a_file_is_not_followed(tmp_path, site):
    site.put("/1", "", status=302, Location="file:///etc/passwd")
    assert refused(client(tmp_path), f"{site.url}/1").reason in ("not_http", "http_302")


def test_an_endless_page_is_cut_off(tmp_path, site):
    site.put("/1", b"x" * (MAX_BYTES + 1))
    found = refused(client(tmp_path), f"{site.url}/1")
    assert (found.reason, found.final) == ("too_large", True)


def test_nobody_at_home_is_told_at_once(tmp_path):
    start = time.monotonic()
    found = refused(client(tmp_path), "http://127.0.0.1:9/1")
    assert (found.reason, found.final) == ("unreachable", False)
    assert time.monotonic() - start < 2
