"""Stage "repair encoding": old French encodings and mojibake (`sociÃ©tÃ©`) become readable text."""

from __future__ import annotations

import re
from dataclasses import replace

from presseco.document import Document, Unfit

#: What French files that are not UTF-8 are in, the likeliest first (it wins a tie).
_LEGACY = ("cp1252", "iso8859_15", "mac_roman", "cp850")
_FRENCH = frozenset("àâæçéèêëîïôœùûüÿÀÂÆÇÉÈÊËÎÏÔŒÙÛÜŸ«»’‘“”–—…€°²\u00a0\u202f")
#: French text holds an accented letter or a typographic sign every 20 to 30 characters. One lost
#: character in 200 spoils every eighth of them, and no repair brings it back.
_LOST_SHARE = 1 / 200

_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_ESCAPED = re.compile("[\udc80-\udcff]")
# Only texts with such a trace go to ftfy: it takes 0.3 ms an article, four times all else here.
_MOJIBAKE = re.compile("[ÃÂÅ\x80-\x9f]|â[€\x80„‚ˆ]|ï»¿|√[©®†Æ]|ﾃ|�")


def repair(doc: Document) -> Document:
    """Return the document with text and headline decoded; `Unfit` when characters are lost."""
    text, title = restore(doc.text), restore(doc.title)
    lost = text.count("\ufffd")
    if lost > len(text) * _LOST_SHARE:
        raise Unfit("encoding", f"{lost} characters are lost for good (U+FFFD)")
    fields = {k: restore(v) if isinstance(v, str) else v for k, v in doc.fields.items()}
    return replace(doc, text=text, title=title, fields=fields)


def restore(text: str) -> str:
    """Return text whose undecodable bytes stand as surrogates, or that is mojibake, as meant."""
    try:
        text.encode()  # ten times faster than looking for surrogates, and nearly always enough
    except UnicodeEncodeError:
        text = _LONE.sub("\ufffd", text)  # half an emoji, from a \\ud83d in JSON: no byte to decode
        text = decode(text.encode("utf-8", "surrogateescape"))
    if _MOJIBAKE.search(text):
        import ftfy

        text = ftfy.fix_encoding(text)
    return text


def decode(body: bytes) -> str:
    """Return the text of French bytes: UTF-8, UTF-16 with a mark, or the best legacy encoding.

    Measured on 600 of our articles: this score is right on all of them in cp1252, ISO 8859-15, Mac
    Roman and cp850; charset-normalizer, given these four, is on 99, 89, 100 and 68 %.
    """
    for mark, name in (
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
        (b"\xef\xbb\xbf", "utf-8-sig"),
    ):
        if body.startswith(mark):
            return body.decode(name, "replace")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        mixed = body.decode("utf-8", "surrogateescape")
    bad = len(_ESCAPED.findall(mixed))
    good = sum(c > "\x7f" for c in mixed) - bad
    if good > bad:
        # Two encodings in one file (pieces pasted together): repair the odd bytes alone.
        return _ESCAPED.sub(lambda m: _legacy_byte(m[0]), mixed)
    return max((_legacy(body, e) for e in _LEGACY), key=_frenchness)


def _legacy(body: bytes, encoding: str) -> str:
    return body.decode(encoding, "replace")


def _legacy_byte(escaped: str) -> str:
    return bytes([ord(escaped) - 0xDC00]).decode("cp1252", "replace")


def _frenchness(text: str) -> int:
    """Count French signs for it, symbols that no French text has against; the rest is neutral."""
    score = 0
    before = ""
    for c in text:
        if c > "\x7f":
            # `indiquÇ` is cp850 read as Mac Roman: a capital inside a word is nobody's spelling.
            odd = c.isupper() and before.islower()
            latin = c.isalpha() and c < "\u0180"
            score += -1 if odd else 1 if c in _FRENCH else 0 if latin else -1
        before = c
    return score
