"""Errors that a user can act on: their text says what was found, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: Exit code of a command that did its work and whose answer is no: worse, not promoted, not the same,
#: drifted. 1 is an error, 2 a mistyped command.
NO = 3


class PressecoError(Exception):
    """Base of every error that the command line shows as one line, without a stack trace."""


class ConfigError(PressecoError):
    """A configuration file has an unknown key, a wrong type or an impossible value."""


class TaxonomyError(PressecoError):
    """The taxonomy file is incomplete, or a label is not in it."""


class ArticleError(PressecoError):
    """An article cannot be read or breaks the format; the text names file and line."""


class SourceError(PressecoError):
    """A source of articles cannot be read or reached, or its settings do not fit it."""


class BundleError(PressecoError):
    """An exported model is damaged, incomplete, too new, or not what it says it is."""


class EncoderError(PressecoError):
    """The pre-trained encoder or its tokenizer cannot be loaded or does not fit."""


class StoreError(PressecoError):
    """A place to write to (disk, tracking store, registry) refuses or cannot be reached."""


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the closest valid word, or an empty string."""
    close = get_close_matches(str(wrong), [str(v) for v in valid], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
