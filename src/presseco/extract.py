"""Understand one piece: the text and what else a page, a Markdown file or a row says about it."""

from __future__ import annotations

import datetime
import json
import logging
import re
from functools import cache
from typing import Any

from presseco.document import Document, Piece, Unfit
from presseco.repair import decode
from presseco.taxonomy import Taxonomy

#: Fields taken over from a row, besides the text and the labels.
FIELDS = ("id", "title", "date", "company", "writer", "style", "story", "url", "rights")

_MARKUP = re.compile(r"</(?:p|div|span|a|li|h[1-6]|strong|em|article)>|<(?:br|p)\s*/?>", re.I)
_SENTENCE_END = re.compile(r"[.!?…](?=\s|»|$)")
_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w-]+)""", re.I)
_FRENCH_DATE = re.compile(r"^(\d{2})[/.](\d{2})[/.](\d{4})\b")
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.S)
_ENTRY = re.compile(r"^(title|date|author|url)\s*:\s*[\"']?(.*?)[\"']?\s*$", re.M | re.I)


def extract(piece: Piece, columns: dict[str, str], taxonomy: Taxonomy) -> Document:
    """Return the piece's document; raise `Unfit` for a problem, a binary file or an empty text.

    `columns` maps our field names to the source's.
    """
    if piece.problem:
        raise Unfit(*piece.problem)
    if piece.kind in ("json", "row"):
        row = piece.fields if piece.kind == "row" else _object(piece.body)
        doc = from_row(piece.where, row, columns, taxonomy)
    else:
        _refuse_binary(piece.body)
        if piece.kind == "html":
            doc = from_html(piece.where, piece.body, piece.fields)
        else:
            text = piece.body.decode("utf-8-sig", "surrogateescape")
            doc = Document(piece.where, text)
            if piece.kind == "markdown":
                doc = from_markdown(piece.where, text)
    if not doc.text.strip():
        raise Unfit("no_text", "the text is empty")
    return doc


def from_row(
    where: str, row: dict[str, Any], columns: dict[str, str], taxonomy: Taxonomy
) -> Document:
    """Return the document of a record; a label that the taxonomy does not have is `Unfit`."""
    name = columns.get("text", "text")
    if row.get(name) is None:
        found = ", ".join(map(str, list(row)[:12])) or "nothing"
        raise Unfit("no_text", f"no column {name!r}; found: {found}. Set input.columns.text.")
    text = _string(row[name])
    if _MARKUP.search(text):
        text = _plain(text)
    fields: dict[str, Any] = {f: _string(row.get(columns.get(f, f))) for f in FIELDS}
    fields = {k: v for k, v in fields.items() if v}
    if "date" in fields:
        fields["date"] = _FRENCH_DATE.sub(r"\3-\2-\1", fields["date"])
    fields |= _judgement(row, columns, taxonomy)
    for many in ("companies_fictional", "annotations"):
        if row.get(columns.get(many, many)):
            fields[many] = list(row[columns.get(many, many)])
    return Document(where, text, fields.pop("title", ""), fields)


def _judgement(row: dict[str, Any], columns: dict[str, str], taxonomy: Taxonomy) -> dict[str, Any]:
    labels = {t: row.get(columns.get(t, t)) for t in taxonomy.names}
    labels = {t: str(v) for t, v in labels.items() if v not in (None, "")}
    if row.get(columns.get("out_of_domain", "out_of_domain")) or "hors_sujet" in labels.values():
        return {"out_of_domain": True}
    for task, label in labels.items():
        if label not in taxonomy[task].ids:
            raise Unfit("unknown_label", f"{task} is {label!r}; labels: {taxonomy[task].ids}")
    return {"labels": labels} if labels else {}


def from_html(where: str, body: bytes, said: dict[str, Any]) -> Document:
    """Return the article of a web page without its menus and notices (trafilatura).

    `said` is what a feed says of the page (title, date, url); it wins over the page's own words.
    """
    import trafilatura

    logging.getLogger("trafilatura").setLevel(
        logging.CRITICAL
    )  # quarantine says it, with the place
    page = _page(body)
    found: Any = trafilatura.bare_extraction(
        page, with_metadata=True, include_comments=False, include_tables=False, favor_precision=True
    )
    text = str(found.text or "") if found else ""
    # A page of menus alone comes out as one long list of words: no prose has 60 words a sentence.
    if not text or len(text.split()) > 60 * len(_SENTENCE_END.findall(text)):
        raise Unfit("no_article", "no sentences in the page, only menus, lists or scripts")
    fields = {"title": found.title, "date": found.date, "writer": found.author, "url": found.url}
    fields = {k: v for k, v in fields.items() if v} | {k: v for k, v in said.items() if v}
    return Document(where, text, fields.pop("title", ""), fields)


def _page(body: bytes) -> str:
    declared = _CHARSET.search(body[:4096])
    if declared:
        try:
            return body.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            pass  # a page that says UTF-8 and is not: look at the bytes instead
    return decode(body)


def from_markdown(where: str, text: str) -> Document:
    """Return the prose of a Markdown file; a YAML header gives title, date, author and url."""
    fields: dict[str, Any] = {}
    if front := _FRONT.match(text):
        fields = {k.lower(): v for k, v in _ENTRY.findall(front[1]) if v}
        text = text[front.end() :]
    if "author" in fields:
        fields["writer"] = fields.pop("author")
    blocks = []
    for token in _markdown().parse(text):
        if token.type == "inline":
            kinds = {"text": None, "code_inline": None, "softbreak": " ", "hardbreak": "\n"}
            parts = [kinds[c.type] or c.content for c in token.children or () if c.type in kinds]
            blocks.append("".join(parts).strip())
    title = fields.pop("title", "")
    return Document(where, "\n".join(b for b in blocks if b), title, fields)


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


def _plain(text: str) -> str:
    from lxml import html

    page = html.fromstring(f"<div>{text}</div>")
    for node in page.iter("p", "br", "div", "li", "h1", "h2", "h3"):
        node.tail = f"\n{node.tail or ''}"
    return str(page.text_content())


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as e:
        raise Unfit("broken_json", str(e)[:200]) from None
    if not isinstance(row, dict):
        raise Unfit("broken_json", f"expected an object, found {type(row).__name__}")
    return row


def _refuse_binary(body: bytes) -> None:
    head = body[:8192]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return  # UTF-16 has zero bytes and is text
    odd = sum(b < 9 or 13 < b < 32 for b in head)
    if b"\0" in head or odd > len(head) / 20:
        raise Unfit("binary", f"{odd} control bytes in the first {len(head):,}")


def _string(value: Any) -> str:
    if value is None or value != value:  # None, or the NaN of a data frame
        return ""
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    return str(value).strip()
