"""The rights ledger: of every article, whose it is, where it is from, what may be passed on."""

from __future__ import annotations

import hashlib
from typing import Any

from presseco.source import Rights

#: What of an article is somebody's text, and so stays in the house unless the rights say otherwise.
_TEXT_FIELDS = ("text", "title", "annotations")


def ledger_row(row: dict[str, Any], place: str, source: str, rights: Rights) -> dict[str, Any]:
    """Return an article's line of the ledger; `sha256` recognises the text without showing it."""
    entry = {
        "id": row["id"],
        "source": source,
        "where": place,
        "url": row.get("url", ""),
        "writer": row.get("writer", ""),
        "date": row.get("date", ""),
        "licence": rights.licence,
        "redistribute_text": rights.redistribute_text,
        "attribution": rights.attribution,
        "sha256": hashlib.sha256(row["text"].encode()).hexdigest(),
    }
    # What the article says of itself; the source file is the team's own word and decides.
    if row.get("rights") and row["rights"] != rights.licence:
        entry["stated_rights"] = row["rights"]
    return entry


def shareable(row: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """Return the article as it may leave the house: without its text where that may not be shared.

    Ids, labels and the text's digest always stay: who holds the same text can join them again.
    """
    kept = {k: v for k, v in row.items() if entry["redistribute_text"] or k not in _TEXT_FIELDS}
    rights = {k: entry[k] for k in ("licence", "attribution", "sha256", "redistribute_text")}
    return kept | rights
