"""A vote: what one labelling source says about one article and task, or that it says nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from presseco.article import Article
from presseco.text import prepare

#: A first line is a headline up to this many words (ours have 25 at most) ...
_HEADLINE_WORDS = 32
#: ... and the lead is what follows up to this word: two or three sentences of a dispatch.
_LEAD_WORDS = 60
#: Words read in all; what follows is background, and long texts would collect chance hits.
_READ_WORDS = 450

_FOLD = str.maketrans("àâäáãåéèêëíîïìóôöõòúùûüçñÿ", "aaaaaaeeeeiiiiooooouuuucny", "\u00ad\u200b")


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer: `confidence` in 0..1, `by` the parts of the source that made it.

    `by` names patterns, seeds or companies, so that the report can tell which of them help.
    """

    task: str
    label: str
    confidence: float
    by: tuple[str, ...] = ()


class Labeller(Protocol):
    """A source of votes. Not voting on a task is abstaining."""

    @property
    def name(self) -> str:
        """Return the word that the report and the configuration use."""

    @property
    def stamp(self) -> str:
        """Return a digest of all that decides the votes: another stamp, and all is asked anew."""

    def vote(self, articles: Sequence[Article]) -> list[list[Vote]]:
        """Return the votes on each article, in order; at most one a task."""


class Parts(NamedTuple):
    """An article as it is judged: headline ("" without one), lead, and the rest."""

    headline: str
    lead: str
    body: str


def parts(article: Article) -> Parts:
    """Return headline, lead and body, prepared as for the models, cut to what is read.

    Without a title the first line is the headline if it is short and does not end like a sentence.
    """
    lines = prepare(article.text, article.title).split("\n")
    titled = bool(article.title) and lines[0] == prepare(article.title).split("\n")[0]
    headline = lines.pop(0) if titled or (len(lines) > 1 and _is_headline(lines[0])) else ""
    words = " ".join(lines).split()
    return Parts(headline, " ".join(words[:_LEAD_WORDS]), " ".join(words[_LEAD_WORDS:_READ_WORDS]))


def _is_headline(line: str) -> bool:
    return len(line.split()) <= _HEADLINE_WORDS and not re.search(r"[.;:]$", line)


def fold(text: str) -> str:
    """Return the text in lower case without accents, ligatures and odd apostrophes."""
    return text.lower().translate(_FOLD).replace("œ", "oe").replace("æ", "ae").replace("’", "'")
