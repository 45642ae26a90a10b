"""Stage "normalise": one form of Unicode, line and headline; too short or too long goes aside."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import replace

from presseco.document import Document, Unfit
from presseco.source import Keep

_BREAKS = re.compile(r"\r\n|[\r\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u200b-\u200f\u2060\u00ad]")
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,5}|#x[0-9a-f]{2,4});", re.I)
_SPACES = re.compile(r"[ \t]{2,}|\t")


def normalise(doc: Document, keep: Keep) -> Document:
    """Return the document in NFC, headline first, one paragraph a line, no control characters.

    Typography (apostrophes, quotation marks, non-breaking spaces) stays as it was written.
    """
    title = tidy(doc.title).replace("\n", " ")
    text = tidy(doc.text)
    if title and not text.casefold().startswith(title.casefold()):
        text = f"{title}\n{text}"
    if len(text) > keep.max_chars:
        raise Unfit(
            "too_long", f"{len(text):,} characters, at most {keep.max_chars:,} (keep.max_chars)"
        )
    words = len(text.split())
    if words < keep.min_words:
        raise Unfit("too_short", f"{words} words, at least {keep.min_words} (keep.min_words)")
    return replace(doc, text=text, title=title)


def tidy(text: str) -> str:
    """Return the text with entities resolved and white space and control characters in order."""
    if _ENTITY.search(text):
        text = html.unescape(text)
    text = unicodedata.normalize("NFC", _CONTROL.sub("", _BREAKS.sub("\n", text)))
    if "\t" in text or "  " in text:
        text = _SPACES.sub(" ", text)
    lines = (line.strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
