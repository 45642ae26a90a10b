"""The one text preparation that training and serving share (standard library only)."""

from __future__ import annotations

import re
import unicodedata

#: Characters kept of an article before tokenising. 512 tokens of French are about 2,500 characters;
#: this is eight times that, so nothing a model could see is lost, and a 5 MB line costs no more.
MAX_CHARS = 20_000

# Typographic variants that carry no meaning but would be other tokens.
_VARIANTS = str.maketrans(
    {
        "’": "'",
        "‘": "'",
        "ʼ": "'",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
        "\u2007": " ",
        "“": '"',
        "”": '"',
        "‑": "-",
        "\u00ad": None,
        "\u200b": None,
        "\ufeff": None,
    }
)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]+")
_SPACES = re.compile(r"[ \t]+")
_LINES = re.compile(r"\s*\n\s*")

#: A line counts as "all capitals" from this share of capitals among its letters...
_CAPITALS = 0.8
#: ...and from this many letters, so that an acronym alone on its line is left as it is.
_CAPITALS_LETTERS = 12


def prepare(text: str, title: str | None = None) -> str:
    """Return the text as the models read it: headline on the first line, one paragraph a line.

    Unicode NFC, one form of apostrophe, quotation mark, hyphen and space, no control characters,
    all-capitals lines in lower case (accents are kept; none are guessed). The title is put first
    unless the text already starts with it. At most `MAX_CHARS` characters come back.
    """
    # The cut before the costly steps bounds the work on a hostile input; 4x leaves room for spaces.
    body = _clean(text[: 4 * MAX_CHARS])
    head = _clean(title[:MAX_CHARS]).replace("\n", " ") if title else ""
    if head and not body.casefold().startswith(head.casefold()):
        body = f"{head}\n{body}" if body else head
    return "\n".join(_calm(line) for line in body[:MAX_CHARS].split("\n"))


def _clean(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n")
    text = unicodedata.normalize("NFC", _CONTROL.sub(" ", text)).translate(_VARIANTS)
    return _LINES.sub("\n", _SPACES.sub(" ", text)).strip()


def _calm(line: str) -> str:
    """Lower-case a line that shouts: `LE CAC 40 CHUTE` is read as `Le cac 40 chute`."""
    letters = sum(map(str.isalpha, line))
    if letters < _CAPITALS_LETTERS or sum(map(str.isupper, line)) < _CAPITALS * letters:
        return line
    return line.capitalize()
