"""Stage "business or not": a weighted French lexicon whose every decision names its terms."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from presseco.document import Document, Unfit
from presseco.errors import ConfigError

#: Words of headline and lead whose terms count twice: the guideline judges by them first.
_LEAD = 60
#: Words scored. What follows is background, and would let a long text collect hints by its length.
_READ = 400
#: Terms that a quarantine line names.
_SHOWN = 6

_WORD = re.compile(r"[\w€-]+")
_FOLD = str.maketrans(
    "àâäáãéèêëíîïìóôöõòúùûüçñÿ’\u00a0\u202f", "aaaaaeeeeiiiiooooouuuucny'  ", "\u00ad\u200b"
)


@dataclass(frozen=True)
class Verdict:
    """The score of a text and the terms that made it, with their weights."""

    score: float
    found: dict[str, int]

    @property
    def terms(self) -> list[str]:
        """Return the terms that weigh most, the heaviest first."""
        heavy = sorted(self.found, key=lambda t: (-abs(self.found[t]), t))
        return [t.strip() for t in heavy[:_SHOWN]]


@dataclass(frozen=True)
class Lexicon:
    """Terms with weights: whole words, beginnings of words and set phrases, all folded.

    `openings` lists the phrases by their first word."""

    threshold: float
    words: dict[str, int]
    starts: dict[str, int]
    phrases: dict[str, int]
    openings: dict[str, list[str]]
    _seen: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Return the number of terms."""
        return len(self.words) + len(self.starts) + len(self.phrases)

    def judge(self, text: str) -> Verdict:
        """Return the text's score: weights of its distinct terms, by the root of its length."""
        seen = self._seen  # asked 300 times an article: a call for each would cost most of all
        found_words = _WORD.findall(text[: 12 * _READ].lower())[:_READ]
        words = [seen.get(w) or self._known(w) for w in found_words]
        distinct = set(words)
        found = {t: self._weight(t) for _, t in distinct if t}
        candidates = [p for w, _ in distinct if w in self.openings for p in self.openings[w]]
        if candidates:
            line = f" {' '.join(w for w, _ in words)} "
            found |= {p: self.phrases[p] for p in candidates if p in line}
        early = {t for _, t in words[:_LEAD]}
        total = sum(w * (2 if t in early else 1) for t, w in found.items())
        # The root: twice the text brings more terms, but not twice as many distinct ones.
        return Verdict(round(total / (10 * math.sqrt(max(len(words), 20) / 100)), 2), found)

    def _weight(self, term: str) -> int:
        return self.starts[term] if term in self.starts else self.words[term]

    def _known(self, word: str) -> tuple[str, str]:
        """Return a word folded, and the term that it is an instance of or ""; remembered."""
        if len(self._seen) > 200_000:  # a stream has no last new word; memory has an end
            self._seen.clear()
        folded = _fold(word)
        return self._seen.setdefault(word, (folded, self._look_up(folded)))

    def _look_up(self, word: str) -> str:
        if word in self.words:
            return word
        return next((word[:n] for n in range(len(word), 2, -1) if word[:n] in self.starts), "")


def read_lexicon(path: str | Path) -> Lexicon:
    """Read a lexicon file: `threshold`, and `terms` as lists by weight."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        terms = [(str(t), int(w)) for w, group in data["terms"].items() for t in group]
        threshold = float(data["threshold"])
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from None
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as e:
        raise ConfigError(
            f"{path}: not a lexicon ({e}); expected `threshold: NUMBER` and "
            "`terms:` as lists by weight"
        ) from None
    odd = [t for t, _ in terms if t != _fold(t)]
    if odd:
        raise ConfigError(f"{path}: terms must be lower case without accents: {', '.join(odd[:5])}")
    words = {t: w for t, w in terms if _WORD.fullmatch(t)}
    starts = {t[:-1]: w for t, w in terms if t.endswith("*") and _WORD.fullmatch(t[:-1])}
    # Spaces around a phrase make it match whole words only; a star leaves its end open.
    phrases = {
        f" {' '.join(_WORD.findall(t))}{'' if t.endswith('*') else ' '}": w
        for t, w in terms
        if t not in words and t[:-1] not in starts
    }
    # A phrase is looked for only where its first word stands: 80 searches a text would cost most.
    openings: dict[str, list[str]] = {}
    for p in phrases:
        openings.setdefault(p.split()[0], []).append(p)
    return Lexicon(threshold, words, starts, phrases, openings)


def keep_business(doc: Document, lexicon: Lexicon) -> Document:
    """Return the article if it reads as business news; a labelled one is taken at its word."""
    if doc.labelled:
        return doc
    verdict = lexicon.judge(doc.text)
    if verdict.score < lexicon.threshold:
        terms = ", ".join(verdict.terms) or "no term of the lexicon"
        raise Unfit(
            "not_business", f"score {verdict.score} under {lexicon.threshold}; terms: {terms}"
        )
    return doc


def precision_recall(
    lexicon: Lexicon, business: Iterable[str], other: Iterable[str]
) -> tuple[float, float]:
    """Return precision (at equal numbers of both kinds) and recall of the lexicon's decision."""
    kept = [lexicon.judge(t).score >= lexicon.threshold for t in business]
    wrong = [lexicon.judge(t).score >= lexicon.threshold for t in other]
    recall, false = sum(kept) / len(kept), sum(wrong) / len(wrong)
    return (recall / (recall + false) if recall + false else 0.0), recall


def _fold(text: str) -> str:
    return text.lower().translate(_FOLD).replace("œ", "oe")
