"""Do new articles still look like those of training? Labels, confidence, abstention, words, length."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from presseco.classifier import Classifier, Prediction
from presseco.documents import documents
from presseco.errors import NO, ArticleError
from presseco.files import write_text
from presseco.reference import Array, Reference, Spread, new_share, read_reference, words
from presseco.text import prepare

#: Population stability index from which to look, and from which to act: the customary limits
#: (Siddiqi, Credit Risk Scorecards, 2006).
WATCH, DRIFT = 0.1, 0.25
#: With fewer articles chance alone moves the index of 15 labels by 0.25 and more.
MIN_ARTICLES = 50
#: Resamples of an interval; its ends are then stable to about a tenth of its width.
RESAMPLES = 1000
VERDICTS = ("no drift", "watch", "drift")
_CHUNK = 256
_WORDS_SHOWN = 25


@dataclass(frozen=True)
class Aspect:
    """One thing compared. `psi` is what is left after chance's share; `interval` is 95 %.

    `before` and `now` are the shares of articles in each of `bins`, at training and in the batch.
    """

    name: str
    psi: float
    interval: tuple[float, float]
    verdict: str
    reason: str
    bins: tuple[str, ...]
    before: tuple[float, ...]
    now: tuple[float, ...]


@dataclass(frozen=True)
class Word:
    """A word that the batch has more often: shares of articles, and the z-score of the log odds."""

    word: str
    now: float
    before: float
    z: float


@dataclass(frozen=True)
class Drift:
    """The comparison of one batch with a model's reference. `verdict` is that of the worst aspect."""

    model: str
    source: str
    articles: int
    reference_articles: int
    truncated: int
    aspects: tuple[Aspect, ...]
    words: tuple[Word, ...]

    @property
    def verdict(self) -> str:
        """Return `no drift`, `watch` or `drift`."""
        return max((a.verdict for a in self.aspects), key=VERDICTS.index)

    def to_json(self) -> str:
        """Return everything as JSON."""
        limits = {"watch": WATCH, "drift": DRIFT}
        data = {"verdict": self.verdict, "limits": limits, **asdict(self)}
        return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


@dataclass
class _Batch:
    """What is kept of each article while a file streams by: numbers, and counts of words."""

    predictions: dict[str, list[tuple[str, float, bool]]]
    lengths: list[int]
    new: list[float]
    articles_with: Counter[str]
    truncated: int = 0

    def add(self, prepared: str, prediction: Prediction, reference: Reference) -> None:
        """Count one article in."""
        for task, a in prediction.answers.items():
            self.predictions[task].append((a.label, a.probability, a.abstained))
        found = words(prepared)
        self.lengths.append(len(found))
        self.new.append(new_share(found, reference.vocabulary))
        self.articles_with.update(set(found))
        self.truncated += prediction.truncated


def drift(
    model: str, source: Path, folder: Path, *, precision: str = "auto", threads: int = 0
) -> Drift:
    """Compare the articles of a file with a bundle's training; write report and JSON to `folder`.

    `source` is what `presseco predict` reads. Raises `BundleError` for a bundle without reference,
    `ArticleError` for a bad row or fewer than `MIN_ARTICLES`.
    """
    from presseco.drift_page import drift_page  # its charts need matplotlib: said before the work

    rows = documents(source)
    first = next(rows, None)
    classifier = Classifier.load(model, precision=precision, threads=threads)
    reference = read_reference(classifier.bundle)
    batch = _read(classifier, reference, [first] if first else [], rows)
    if len(batch.lengths) < MIN_ARTICLES:
        raise ArticleError(
            f"{source}: {len(batch.lengths)} articles; a comparison needs {MIN_ARTICLES} or more, "
            "a few hundred to see small changes. Collect more, such as a week's."
        )
    found = compare(classifier, reference, batch, source.name)
    write_text(folder / "drift.json", found.to_json())
    write_text(folder / "drift.html", drift_page(found))
    return found


def _read(classifier: Classifier, reference: Reference, first: list[Any], rows: Any) -> _Batch:
    tasks = [t.name for t in classifier.bundle.tasks]
    batch = _Batch({t: [] for t in tasks}, [], [], Counter())
    started = time.monotonic()
    while chunk := [*first, *islice(rows, _CHUNK - len(first))]:
        first = []
        predictions = classifier.predict([d.text for d in chunk], [d.title for d in chunk])
        for d, p in zip(chunk, predictions, strict=True):
            batch.add(prepare(d.text, d.title), p, reference)
        if sys.stderr.isatty():
            speed = len(batch.lengths) / (time.monotonic() - started)
            print(
                f"\r{len(batch.lengths):,} articles, {speed:.1f} a second ", end="", file=sys.stderr
            )
    return batch


def compare(classifier: Classifier, reference: Reference, batch: _Batch, source: str) -> Drift:
    """Return the comparison of a batch that was read with the reference."""
    bundle, aspects = classifier.bundle, []
    for task in bundle.tasks:
        known, answers = reference.tasks[task.name], batch.predictions[task.name]
        given = np.bincount(
            [task.labels.index(label) for label, _, _ in answers], minlength=len(task.labels)
        )
        aspects.append(aspect(f"{task.name}: labels", task.display, known.labels, given))
        sure = np.array([p for _, p, _ in answers])
        aspects.append(_spread(f"{task.name}: confidence", known.confidence, sure, "mean", ".2f"))
        no = sum(a for _, _, a in answers)
        before = (reference.articles - known.abstained, known.abstained)
        aspects.append(
            aspect(
                f"{task.name}: abstention",
                ("answers", "abstains"),
                before,
                np.array([len(answers) - no, no]),
            )
        )
    lengths, new = np.array(batch.lengths), np.array(batch.new)
    aspects.append(_spread("length", reference.length, lengths, "mean words", ".0f"))
    aspects.append(_spread("vocabulary", reference.new_words, new, "new words", ".1%"))
    return Drift(
        model=f"{bundle.name}@{bundle.version}",
        source=source,
        articles=len(batch.lengths),
        reference_articles=reference.articles,
        truncated=batch.truncated,
        aspects=tuple(aspects),
        words=tuple(overrepresented(batch.articles_with, len(batch.lengths), reference)),
    )


def _spread(name: str, known: Spread, values: Array, what: str, form: str) -> Aspect:
    edges = [f"{e:g}" for e in known.edges]
    bins = [f"{a} to {b}" for a, b in pairwise(edges)]
    names = (f"under {edges[0]}", *bins, f"{edges[-1]} or more") if edges else ("all",)
    said = f"{what} {known.mean:{form}}, now {values.mean():{form}}"
    return aspect(name, names, known.counts, known.count(values), said)


def aspect(
    name: str, bins: Sequence[str], before: Sequence[int], now: Array, said: str = ""
) -> Aspect:
    """Compare two counts over the same bins; `said` describes the change, else the bin that moved."""
    old, new = np.array(before, dtype=np.float64), np.asarray(now, dtype=np.float64)
    value, interval = stability(old, new)
    p, q = old / old.sum(), new / new.sum()
    if not said:
        most = int(np.abs(p - q).argmax())
        said = f"{bins[most]} {p[most]:.1%}, now {q[most]:.1%}"
    verdict, why = judge(value, interval)
    return Aspect(
        name=name,
        psi=round(value, 4),
        interval=(round(interval[0], 4), round(interval[1], 4)),
        verdict=verdict,
        reason=f"{why}: {said}",
        bins=tuple(bins),
        before=tuple(np.round(p, 4).tolist()),
        now=tuple(np.round(q, 4).tolist()),
    )


def judge(value: float, interval: tuple[float, float]) -> tuple[str, str]:
    """Return the verdict on an index and the reason: the size counts, and that it is no chance."""
    low, high = interval
    text = f"index {value:.2f} ({low:.2f} to {high:.2f})"
    if value >= DRIFT and low > WATCH:
        return "drift", f"{text}, {DRIFT} or more"
    if value >= WATCH and low > 0:
        return "watch", f"{text}, {WATCH} or more"
    if high >= DRIFT:
        return "no drift", f"{text}, too few articles to exclude drift"
    return "no drift", f"{text}, under {WATCH} or within chance"


def stability(old: Array, new: Array) -> tuple[float, tuple[float, float]]:
    """Return the population stability index of two counts without chance's share, and its interval.

    Two samples of one source have an index of (bins - 1)(1/n + 1/m) on average (Yurdakul, 2018);
    that is taken off, so that small batches do not look like drift. The interval is that of 1,000
    resamples of both samples, whose index carries chance's share twice.
    """
    chance = float((len(old) - 1) * (1 / old.sum() + 1 / new.sum()))
    value = float(_index(old, new)) - chance
    rng = np.random.default_rng(0)
    draws = [rng.multinomial(int(c.sum()), c / c.sum(), RESAMPLES) for c in (old, new)]
    ends = np.quantile(_index(*draws) - 2 * chance, [0.025, 0.975])
    low, high = (max(float(x), 0.0) for x in ends)
    return max(value, 0.0), (low, high)


def _index(old: Array, new: Array) -> Array:
    # Half an article is added to every bin: an empty one would make the index infinite.
    p, q = ((c + 0.5) / (c.sum(axis=-1, keepdims=True) + 0.5 * c.shape[-1]) for c in (old, new))
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))


def overrepresented(found: Counter[str], articles: int, reference: Reference) -> list[Word]:
    """Return the words that the batch has most surely more often than training, surest first.

    Log odds ratio of the articles that have the word, half an article added to each count, in
    standard errors (after Monroe, Colaresi and Quinn, 2008). A word that is not in the reference
    counts as one that training never had.
    """
    scored = []
    for word, n in found.items():
        before = reference.vocabulary.get(word, 0)
        if n < 3 or n / articles <= before / reference.train_articles:
            continue
        counts = (n, articles - n, before, reference.train_articles - before)
        a, b, c, d = (x + 0.5 for x in counts)
        z = (math.log(a / b) - math.log(c / d)) / math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
        share = before / reference.train_articles
        scored.append(Word(word, round(n / articles, 4), round(share, 4), round(z, 1)))
    return sorted(scored, key=lambda w: (-w.z, w.word))[:_WORDS_SHOWN]


def exit_code(verdict: str, fail_on: str) -> int:
    """Return 0, or `NO` when the verdict is `fail_on` or worse (`never`: always 0)."""
    if fail_on == "never":
        return 0
    return NO if VERDICTS.index(verdict) >= VERDICTS.index(fail_on) else 0
