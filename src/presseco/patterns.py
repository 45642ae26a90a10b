"""Labelling functions: French patterns in a file, weighed by where in the article they are found."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from presseco.article import Article
from presseco.errors import ConfigError, TaxonomyError
from presseco.taxonomy import Taxonomy
from presseco.vote import Parts, Vote, fold, parts

Weight = Annotated[float, Field(gt=0, le=10)]

#: Points that the best label must have before the source speaks: one sure word in the body (1.0),
#: or half a hint in the headline.
_LEAST = 0.9
#: Points that a label of nothing would have: keeps a single weak hit from a confidence of 1.
_DOUBT = 1.5
#: From a label's share of the points to how often it is right, as measured on our training writers
#: (shares of 0.35, 0.45, 0.55, 0.65: right 0.49, 0.70, 0.85, 0.92 of the time, over all tasks).
_SLOPE, _START = 1.7, -0.08


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Places(_Strict):
    """What a hit counts by where it is found first: the guideline judges by headline, then lead."""

    headline: Weight
    lead: Weight
    body: Weight


class _Function(_Strict):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    task: str
    label: str
    weight: Weight = 1.0
    places: Places | None = None
    only: list[str] = Field(default_factory=list)
    patterns: Annotated[list[str], Field(min_length=1)]


class _File(_Strict):
    places: Places
    functions: Annotated[list[_Function], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One expression of a function; one of `literals` must stand in a text, or the regex is not tried."""

    function: str
    task: str
    label: str
    places: tuple[float, float, float]
    source: str
    literals: tuple[str, ...]
    regex: re.Pattern[str]

    @property
    def name(self) -> str:
        """Return `function:expression`, as the report names it."""
        return f"{self.function}:{self.source}"

    def points(self, folded: Parts) -> float:
        """Return what the pattern's first place is worth, 0 where it is not found.

        A second place adds a half: a word of the headline that comes back is the subject.
        """
        found = [
            weight
            for weight, text in zip(self.places, folded, strict=True)
            if weight and self._may_be_in(text) and self.regex.search(text)
        ]
        return found[0] + sum(found[1:]) / 2 if found else 0.0

    def _may_be_in(self, text: str) -> bool:
        return not self.literals or any(x in text for x in self.literals)


@dataclass(frozen=True)
class Patterns:
    """All labelling functions of a file, as one source."""

    patterns: tuple[Pattern, ...]
    stamp: str
    name: str = field(default="patterns", init=False)

    def vote(self, articles: Sequence[Article]) -> list[list[Vote]]:
        """Return one vote a task: the label with most points, or none where hits are too weak."""
        return [self._one(a) for a in articles]

    def fired(self, article: Article) -> dict[Pattern, float]:
        """Return the patterns that are found in an article with their points."""
        folded = Parts(*map(fold, parts(article)))
        points = ((p, p.points(folded)) for p in self.patterns)
        return {p: x for p, x in points if x}

    def _one(self, article: Article) -> list[Vote]:
        by_task: dict[str, dict[Pattern, float]] = defaultdict(dict)
        for pattern, points in self.fired(article).items():
            by_task[pattern.task][pattern] = points
        votes = (_decide(task, fired) for task, fired in by_task.items())
        return [v for v in votes if v]


def _decide(task: str, fired: dict[Pattern, float]) -> Vote | None:
    scores: dict[str, list[float]] = defaultdict(list)
    for pattern, points in fired.items():
        scores[pattern.label].append(points)
    # Root of squares plus a tenth of the sum: the strongest hit decides, repeats only confirm.
    total = {x: math.sqrt(sum(p * p for p in ps)) + 0.1 * sum(ps) for x, ps in scores.items()}
    best = max(total, key=lambda x: (total[x], x))
    if total[best] < _LEAST:
        return None
    rest = sum(v for x, v in total.items() if x != best)
    second = max((v for x, v in total.items() if x != best), default=0.0)
    if second > 0.97 * total[best]:  # a tie says nothing
        return None
    share = total[best] / (total[best] + 0.5 * (rest + second) + _DOUBT)
    confidence = min(max(_SLOPE * share + _START, 0.1), 0.95)
    by = tuple(p.name for p in fired if p.label == best)
    return Vote(task, best, round(confidence, 4), by)


def read_patterns(path: str | Path, taxonomy: Taxonomy) -> Patterns:
    """Read a file of labelling functions; refuse what cannot work, naming function and pattern.

    Patterns are matched from word to word in text without case and accents, so they must be
    written that way. Raises `ConfigError`, or `TaxonomyError` on an unknown task or label.
    """
    try:
        raw = Path(path).read_bytes()
        file = _File.model_validate(yaml.safe_load(raw))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None
    except ValidationError as e:
        raise ConfigError(f"{path}: {_explain(e.errors()[0])}") from None
    names = [f.name for f in file.functions]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ConfigError(f"{path}: functions named twice: {', '.join(twice)}")
    patterns = tuple(p for f in file.functions for p in _compile(f, file.places, taxonomy, path))
    return Patterns(patterns, hashlib.sha256(raw + b"2").hexdigest()[:16])


def _compile(
    function: _Function, places: Places, taxonomy: Taxonomy, path: str | Path
) -> Iterable[Pattern]:
    where = f"{path}: {function.name}"
    if function.task not in taxonomy.names:
        raise TaxonomyError(f"{where}: no task {function.task!r}; tasks: {taxonomy.names}")
    taxonomy.check(function.task, function.label, where)
    used = function.places or places
    if odd := set(function.only) - set(Places.model_fields):
        raise ConfigError(f"{where}: only: {sorted(odd)}; allowed: {list(Places.model_fields)}")
    weights = [
        function.weight * getattr(used, p) if not function.only or p in function.only else 0.0
        for p in Places.model_fields
    ]
    if twice := {p for p in function.patterns if function.patterns.count(p) > 1}:
        raise ConfigError(f"{where}: patterns written twice: {sorted(twice)}")
    for source in function.patterns:
        yield Pattern(
            function.name,
            function.task,
            function.label,
            (weights[0], weights[1], weights[2]),
            source,
            _literals(source),
            _regex(source, where),
        )


def _regex(source: str, where: str) -> re.Pattern[str]:
    # Only escapes may have capitals: \S, \W.
    plain = re.sub(r"\\[A-Z]", "", source)
    if plain != fold(plain):
        raise ConfigError(f"{where}: {source!r} must be lower case without accents")
    try:
        return re.compile(rf"(?<!\w)(?:{source})(?!\w)")
    except re.error as e:
        raise ConfigError(f"{where}: {source!r} is no regular expression: {e}") from None


def _literals(source: str) -> tuple[str, ...]:
    """Return beginnings of which every match has one: a search for them costs far less than a regex.

    Empty where none can be told.
    """
    group = re.match(r"\(([^()?]*)\)(?![?*{])", source)
    choices = group.group(1).split("|") if group else [source]
    if group is None and "|" in re.sub(r"\([^()]*\)", "", source):
        return ()
    found = tuple(_beginning(c) for c in choices)
    return found if all(found) else ()


def _beginning(source: str) -> str:
    start = re.match(r"[a-z0-9 '%-]*", source)
    text = start.group() if start else ""
    return text[:-1] if source[len(text) : len(text) + 1] in ("?", "*", "{") else text


def _explain(error: Any) -> str:
    where = ".".join(map(str, error["loc"])) or "top level"
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}; a function has name, task, label, weight, places, only, patterns"
    return f"{where}: {error['msg'].lower()} (found {error['input']!r:.60})"
