"""The gazetteer: real companies with their sector, found by name in headline, lead and body."""

from __future__ import annotations

import csv
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from presseco.article import Article
from presseco.errors import ConfigError
from presseco.taxonomy import Taxonomy
from presseco.vote import Parts, Vote, fold, parts

#: The task that a company says something about.
TASK = "sector"
_COLUMNS = ("name", "aliases", "sector", "country", "needs")
#: Points of a company by the place of its first mention; a repeat in the lead or body adds a third.
_PLACES = (3.0, 1.5, 0.4)
#: Points that the best sector needs: one mention in the lead, or four companies in the body.
_LEAST = 1.5
_DOUBT = 1.0
#: A text that names companies of so many sectors is about none of them: a market report, a fair.
_MANY = 4
_TOKEN = re.compile(r"\w+|[&+]")
#: "A buys B": the guideline takes the sector of the target where the headline names it.
_BUYS = re.compile(
    r"(?<!\w)(?:rachet(?:e|er|era|ent)|acqui(?:ert|erir|erent)|s'offr(?:e|ir|ent)|absorbe(?:r|ra)?|"
    r"repren(?:d|dre|dra)|met(?:tre)? la main sur|croque|avale|convoite|lorgne|"
    r"prend le controle|opa (?:sur|de \d)|lance une (?:opa|offre)|offre .{0,40} pour)(?!\w)"
)


@dataclass(frozen=True, slots=True)
class Company:
    """A company; an ambiguous name counts only in a text that has one of the words `needs`."""

    name: str
    aliases: tuple[str, ...]
    sector: str
    country: str
    needs: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return name and aliases."""
        return (self.name, *self.aliases)


class Mention(NamedTuple):
    """A company found in a text, and where its name begins."""

    company: Company
    start: int


@dataclass(frozen=True)
class Companies:
    """The gazetteer as a source of sector votes."""

    companies: tuple[Company, ...]
    stamp: str
    #: First word of a name -> names that begin so, the longest first, as words.
    index: dict[str, list[tuple[tuple[str, ...], Company]]] = field(repr=False)
    name: str = field(default="companies", init=False)

    def vote(self, articles: Sequence[Article]) -> list[list[Vote]]:
        """Return the sector of the companies that stand first and most often, or nothing."""
        return [list(self._one(parts(a))) for a in articles]

    def mentions(self, text: str) -> list[Mention]:
        """Return the companies named in a text, in order; a longer name wins over a shorter."""
        words = [(m.group(), m.start()) for m in _TOKEN.finditer(_plain(text))]
        found, i = [], 0
        while i < len(words):
            hit = self._at(words, i)
            if hit:
                found.append(Mention(hit[1], words[i][1]))
            i += hit[0] if hit else 1
        return found

    def _at(self, words: Sequence[tuple[str, int]], i: int) -> tuple[int, Company] | None:
        for name, company in self.index.get(words[i][0], ()):
            if tuple(w for w, _ in words[i : i + len(name)]) == name:
                return len(name), company
        return None

    def _one(self, article: Parts) -> Iterator[Vote]:
        text = fold(" ".join(article))
        points: dict[str, float] = defaultdict(float)
        by: dict[str, list[str]] = defaultdict(list)
        seen: Counter[Company] = Counter()
        for place, weight in zip(article, _PLACES, strict=True):
            found = [m for m in self.mentions(place) if _confirmed(m.company, text)]
            order = _subjects(found, fold(_plain(place))) if place is article.headline else found
            for rank, mention in enumerate(order):
                company = mention.company
                seen[company] += 1
                worth = weight if seen[company] == 1 else min(weight, 1.5) / 3
                if weight == _PLACES[0] and rank:  # named in the headline, but not as its subject
                    worth /= 2
                points[company.sector] += worth
                if company.name not in by[company.sector]:
                    by[company.sector].append(company.name)
        if not points or (len(points) >= _MANY and max(points.values()) < _PLACES[0]):
            return
        best = max(points, key=lambda s: (points[s], s))
        rest = sum(points.values()) - points[best]
        if points[best] >= _LEAST and rest < points[best]:
            confidence = points[best] / (points[best] + rest + _DOUBT)
            yield Vote(TASK, best, round(confidence, 4), tuple(by[best]))


def _subjects(found: list[Mention], headline: str) -> list[Mention]:
    """Return a headline's companies with the subject first: the target where one buys another."""
    buys = _BUYS.search(headline)
    targets = [m for m in found if buys and m.start >= buys.end()]
    buyers = [m for m in found if buys and m.start < buys.start()]
    return [*targets, *buyers] if buyers and targets else found


def _confirmed(company: Company, folded: str) -> bool:
    return not company.needs or any(
        re.search(rf"(?<!\w){re.escape(word)}", folded) for word in company.needs
    )


def _plain(text: str) -> str:
    """Return the text without accents, case kept, every character still one character."""
    return "".join(unicodedata.normalize("NFD", c)[0] for c in text.replace("’", "'"))


def _spellings(name: str) -> set[str]:
    """Return how a name is written: as it stands, in capitals, and IKEA also as Ikea.

    Short names keep their capitals: "SES" is a company, "Ses" begins a sentence.
    """
    plain = _plain(name)
    if len(plain) < 4:
        return {plain}
    forms = {plain, plain.upper()}
    return forms | {plain.capitalize()} if plain.isupper() and plain.isalpha() else forms


def read_companies(path: str | Path, taxonomy: Taxonomy) -> Companies:
    """Read the gazetteer; refuse a name twice, an unknown sector or a broken row, by line."""
    try:
        raw = Path(path).read_bytes()
        rows = list(csv.DictReader(raw.decode("utf-8").splitlines(), strict=True))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise ConfigError(f"{path}: not a CSV file in UTF-8: {e}") from None
    if not rows or tuple(rows[0]) != _COLUMNS:
        found = ", ".join(map(str, rows[0])) if rows else "no row"
        raise ConfigError(f"{path}: expected the columns {', '.join(_COLUMNS)}; found {found}")
    companies = [_company(r, taxonomy, f"{path}:{number}") for number, r in enumerate(rows, 2)]
    owner: dict[str, str] = {}
    for number, company in enumerate(companies, 2):
        for name in company.names:
            if (other := owner.setdefault(_key(name), company.name)) != company.name:
                raise ConfigError(f"{path}:{number}: {name!r} is also a name of {other}")
    return Companies(
        tuple(companies), hashlib.sha256(raw + b"1").hexdigest()[:16], _index(companies)
    )


def _key(name: str) -> str:
    return "".join(_TOKEN.findall(fold(_plain(name))))


def _company(row: dict[str, str], taxonomy: Taxonomy, where: str) -> Company:
    if any(not isinstance(v, str) for v in row.values()) or not row["name"].strip():
        raise ConfigError(f"{where}: expected {len(_COLUMNS)} fields, the name not empty")
    if not re.fullmatch(r"[A-Z]{2}", row["country"]):
        raise ConfigError(f"{where}: country is {row['country']!r}; expected two letters, ISO 3166")
    taxonomy.check(TASK, row["sector"], where)
    needs = tuple(fold(w.strip()) for w in row["needs"].split(";") if w.strip())
    aliases = tuple(a.strip() for a in row["aliases"].split(";") if a.strip())
    return Company(row["name"].strip(), aliases, row["sector"], row["country"], needs)


def _index(companies: Sequence[Company]) -> dict[str, list[tuple[tuple[str, ...], Company]]]:
    index: dict[str, list[tuple[tuple[str, ...], Company]]] = defaultdict(list)
    for company in companies:
        for form in {f for name in company.names for f in _spellings(name)}:
            words = tuple(_TOKEN.findall(form))
            index[words[0]].append((words, company))
    for names in index.values():
        names.sort(key=lambda n: -len(n[0]))
    return dict(index)
