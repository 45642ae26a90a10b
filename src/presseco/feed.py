"""Articles from RSS and Atom feeds: new entries only, in full text from the page they link to."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from presseco.collection import Collection
from presseco.document import Piece
from presseco.polite import Client, Refused, Settings
from presseco.source import FeedInput

_TAG = re.compile(r"<[^>]+>")


def pieces(
    source: FeedInput, cache: Path, collection: Collection, client: Client | None = None
) -> Iterator[Piece]:
    """Yield the entries that the collection does not have, at most `max_new_articles` of them.

    A feed or page that cannot be read is a piece with a problem. One that may be there later is
    asked for again by the next run.
    """
    settings = Settings(source.contact, source.seconds_between_requests, source.timeout_seconds)
    client = client or Client(settings, cache)
    known = collection.names()
    left = source.max_new_articles
    for url in source.urls:
        try:
            entries = _entries(client.feed(url), url)
        except Refused as e:
            # Never final: a feed is asked for on every run.
            collection.progress(url, 0, 0)
            yield Piece(url, 1, 1, problem=(e.reason, e.detail), try_again=True)
            continue
        collection.forget(url)  # what a failure of an earlier run left
        for entry in entries:
            link = entry["url"]
            if link in known:
                continue
            if left == 0:
                return
            known.add(link)
            left -= 1
            collection.progress(link, 0, 0)
            yield from _article(entry, source, client)


def _entries(body: bytes, url: str) -> list[dict[str, str]]:
    import feedparser

    found = feedparser.parse(body, response_headers={"content-location": url})
    if not found.entries and (found.bozo or not found.get("version")):
        cause = found.get("bozo_exception", "neither RSS nor Atom")
        raise Refused("feed_broken", f"{url}: {cause}"[:300], final=False)
    return [e for e in map(_entry, found.entries) if e["url"]]


def _entry(entry: Any) -> dict[str, str]:
    when = entry.get("published_parsed") or entry.get("updated_parsed")
    contents = [c.get("value", "") for c in entry.get("content", [])]
    return {
        "url": entry.get("link", ""),
        "title": entry.get("title", ""),
        "writer": entry.get("author", ""),
        "date": time.strftime("%Y-%m-%d", when) if when else "",
        "text": max([*contents, entry.get("summary", "")], key=len),
    }


def _article(entry: dict[str, str], source: FeedInput, client: Client) -> Iterator[Piece]:
    """Yield the entry itself where the feed carries the whole text, else its page."""
    link = entry["url"]
    if len(_TAG.sub(" ", entry["text"]).split()) >= source.full_text_words:
        yield Piece(link, 1, 1, "row", fields=dict(entry))
    else:
        said = {k: v for k, v in entry.items() if k != "text"}
        try:
            yield Piece(link, 1, 1, "html", client.page(link), said)
        except Refused as e:
            yield Piece(link, 1, 1, problem=(e.reason, e.detail), try_again=not e.final)
            if not e.final:
                return
    yield Piece(link, 2, 1, final=True)
