"""Divide articles into train, validation and test so that no writer, company or story leaks."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from presseco.article import Article
from presseco.config import CorpusConfig
from presseco.errors import ConfigError
from presseco.stories import Groups, near_pairs

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

#: Shares of a hashed split, used when the configuration names no held-out writers.
_VALIDATION, _TEST = 0.12, 0.18
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def company_key(name: str) -> str:
    """Return a company's name without case, accents and punctuation, for comparison."""
    flat = unicodedata.normalize("NFKD", name.casefold())
    return re.sub(r"[^a-z0-9]+", "", flat)


def story_groups(articles: Sequence[Article], threshold: float | None) -> list[str]:
    """Return one story name an article: its own `story`, or the first id of its near-duplicates.

    No threshold: only the `story` fields count, as for a source whose articles are clustered.
    """
    groups = Groups(len(articles))
    first: dict[str, int] = {}
    for i, a in enumerate(articles):
        if a.story:
            groups.join(i, first.setdefault(a.story, i))
    texts = [a.text for a in articles] if threshold is not None else []
    for i, j, _ in near_pairs(texts, threshold or 0.0):
        groups.join(i, j)
    return [articles[groups.find(i)].id for i in range(len(articles))]


def assign(
    articles: Sequence[Article], stories: Sequence[str], config: CorpusConfig
) -> tuple[list[Split | None], dict[str, str]]:
    """Return each article's split, and the reason for every article left out (split None).

    Held-out writers are taken whole. An article of train that shares its company or story with
    validation or test is left out, and one of validation that shares with test.
    """
    if config.test_writers or config.validation_writers:
        splits = _by_writer(articles, config)
    elif config.split_by == "time":
        splits = _by_time(articles, stories)
    else:
        splits = _by_hash(articles, stories)
    reasons: dict[str, str] = {}
    result: list[Split | None] = list(splits)
    _purge(result, articles, stories, "test", ("train", "validation"), reasons)
    _purge(result, articles, stories, "validation", ("train",), reasons)
    return result, reasons


def _by_writer(articles: Sequence[Article], config: CorpusConfig) -> list[Split]:
    validation, test = set(config.validation_writers), set(config.test_writers)
    if both := validation & test:
        raise ConfigError(
            f"corpus: writers {sorted(both)} are in validation_writers and test_writers"
        )
    found = {a.writer for a in articles}
    if missing := (validation | test) - found:
        raise ConfigError(
            f"corpus: held-out writers {sorted(missing)} wrote no article; writers: {sorted(found)}"
        )
    return [
        "test" if a.writer in test else "validation" if a.writer in validation else "train"
        for a in articles
    ]


def _by_hash(articles: Sequence[Article], stories: Sequence[str]) -> list[Split]:
    groups = Groups(len(articles))
    for keys in (stories, [company_key(a.company) for a in articles]):
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key:
                groups.join(i, first.setdefault(key, i))
    out: list[Split] = []
    for i in range(len(articles)):
        name = articles[groups.find(i)].id
        x = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
        out.append("test" if x < _TEST else "validation" if x < _TEST + _VALIDATION else "train")
    return out


def _by_time(articles: Sequence[Article], stories: Sequence[str]) -> list[Split]:
    """Give the newest stories to test, those before to validation, older and undated ones to train.

    A story is as old as its first article, so that no later echo carries it into the test.
    """
    born: dict[str, str] = {}
    for a, story in zip(articles, stories, strict=True):
        if _ISO_DATE.match(a.date):
            born[story] = min(born.get(story, a.date[:10]), a.date[:10])
    dates = sorted(born[s] for s in stories if s in born)
    if len(set(dates)) < 3:
        raise ConfigError(
            f"corpus.split_by is time, and the articles have {len(set(dates))} different dates "
            "(YYYY-MM-DD); at least 3 are needed. Use split_by: hash."
        )
    test = dates[int((1 - _TEST) * len(dates))]
    validation = min(dates[int((1 - _TEST - _VALIDATION) * len(dates))], test)
    when = [born.get(s, "") for s in stories]
    return ["test" if w >= test else "validation" if w >= validation else "train" for w in when]


def _purge(
    splits: list[Split | None],
    articles: Sequence[Article],
    stories: Sequence[str],
    protected: Split,
    others: tuple[Split, ...],
    reasons: dict[str, str],
) -> None:
    held: dict[str, dict[str, str]] = defaultdict(dict)
    for a, story, s in zip(articles, stories, splits, strict=True):
        if s == protected:
            held["story"][story] = a.id
            if a.company:
                held["company"][company_key(a.company)] = a.id
    for i, (a, story) in enumerate(zip(articles, stories, strict=True)):
        if splits[i] not in others:
            continue
        other = held["story"].get(story) or held["company"].get(company_key(a.company) or "-")
        if other:
            what = "story" if story in held["story"] else f"company {a.company}"
            reasons[a.id] = f"{splits[i]} article shares its {what} with {other} of {protected}"
            splits[i] = None
