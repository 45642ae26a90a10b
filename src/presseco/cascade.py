"""The cascade: the baseline answers what it is sure of, CamemBERT the rest.

Loaded with scikit-learn (`pip install 'presseco[cascade]'`); the runtime needs none of this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from presseco.baseline import Baseline, load_baseline
from presseco.bundle import Bundle
from presseco.classifier import Answer, Classifier, Prediction
from presseco.errors import BundleError
from presseco.evaluate import Floats, Ints, confusion_matrix, macro_f1, split_logits
from presseco.files import write_text
from presseco.taxonomy import MISSING
from presseco.text import prepare

CASCADE = "cascade.json"
#: Macro-F1 that the cascade may lose on validation against CamemBERT alone, a task: half a point.
MARGIN = 0.005
#: A cut that no probability reaches: every text goes to CamemBERT.
NEVER = 1.01


class Cascade:
    """Classifies like a `Classifier`. An article goes to the baseline when it is sure of all tasks."""

    def __init__(
        self,
        classifier: Classifier,
        baseline: Baseline,
        card: dict[str, Any],
        cut: float,
        name: str,
    ) -> None:
        """`cut` is the probability that the baseline's least sure answer needs, from `fit_cut`."""
        self.classifier, self.bundle, self.precision = (
            classifier,
            classifier.bundle,
            classifier.precision,
        )
        self.cut, self.name = cut, name
        self.deflected = self.seen = 0
        self._baseline, self._card = baseline, card

    @classmethod
    def load(cls, folder: str | Path, classifier: Classifier) -> Cascade:
        """Load the baseline of `folder` with the cut that `presseco cascade` fitted for `classifier`.

        Raises `BundleError` when there is none, or when it was fitted for other models.
        """
        folder = Path(folder)
        baseline, card = open_baseline(folder, classifier.bundle)
        try:
            fitted = json.loads((folder / CASCADE).read_text(encoding="utf-8"))
            models, cut = fitted["models"], float(fitted["cut"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise BundleError(f"{folder / CASCADE}: cannot be read ({e!r}). {_HOW}") from None
        now = fingerprints(folder, classifier.bundle)
        if other := [k for k in now if models.get(k) != now[k]]:
            raise BundleError(
                f"{folder / CASCADE}: fitted with another {' and '.join(other)}; its cut says nothing "
                f"about these models. {_HOW}"
            )
        return cls(classifier, baseline, card, cut, f"presseco-baseline@{now['baseline']}")

    def predict(
        self, texts: Sequence[str], titles: Sequence[str | None] | None = None, *, batch: int = 32
    ) -> list[Prediction]:
        """Classify `texts` as `Classifier.predict` does; `Prediction.model` says who answered."""
        heads = list(titles) if titles is not None else [None] * len(texts)
        if isinstance(texts, str) or len(heads) != len(texts):
            return self.classifier.predict(texts, titles)  # its words about what is wrong
        prepared = [prepare(t, h) for t, h in zip(texts, heads, strict=True)]
        quick = self.probabilities(prepared)
        # A text without a letter or digit is CamemBERT's: it abstains there.
        blank = np.array([not any(map(str.isalnum, t)) for t in prepared], dtype=bool)
        easy = (sureness(quick) >= self.cut) & ~blank
        rest: list[int] = np.flatnonzero(~easy).tolist()
        out = {i: self._answer(quick, i) for i in np.flatnonzero(easy).tolist()}
        slow = self.classifier.predict(
            [texts[i] for i in rest], [heads[i] for i in rest], batch=batch
        )
        out |= dict(zip(rest, slow, strict=True))
        self.seen += len(texts)
        self.deflected += len(texts) - len(rest)
        return [out[i] for i in range(len(texts))]

    def probabilities(self, prepared: list[str]) -> dict[str, Floats]:
        """Return the baseline's calibrated probabilities by task, shape (texts, labels)."""
        return quick_probabilities(self._baseline, self._card, prepared)

    def _answer(self, quick: dict[str, Floats], i: int) -> Prediction:
        answers = {}
        for task in self.bundle.tasks:
            p = quick[task.name][i]
            best = int(p.argmax())
            answers[task.name] = Answer(
                label=task.labels[best],
                display=task.display[best],
                probability=float(p[best]),
                abstained=bool(p[best] < self._card["thresholds"][task.name]),
                probabilities=dict(zip(task.labels, map(float, p), strict=True)),
            )
        return Prediction(answers, truncated=False, model=self.name)


_HOW = "Fit it: presseco cascade --model <bundle> --baseline <this folder>."


def open_baseline(folder: Path, bundle: Bundle) -> tuple[Baseline, dict[str, Any]]:
    """Load a baseline and its JSON; refuse one that answers other questions than the bundle."""
    try:
        baseline, card = load_baseline(folder)
    except OSError as e:
        raise BundleError(
            f"{folder}: no baseline to load ({e.strerror}: {Path(str(e.filename)).name}). Expected "
            "what this version's `make train` wrote, such as dist/baseline."
        ) from None
    tasks = [[t.name, list(t.labels)] for t in bundle.tasks]
    if baseline.task_map != tasks:
        raise BundleError(
            f"{folder}: the baseline's tasks or labels differ from those of {bundle.folder}. Train "
            "both with one taxonomy: make train."
        )
    return baseline, card


def fingerprints(folder: Path, bundle: Bundle) -> dict[str, str]:
    """Return what tells two pairs of models apart: the bundle's version, and the baseline's files."""
    h = hashlib.sha256()
    for name in ("model.skops", "vocabulary.json", "baseline.json"):
        h.update((folder / name).read_bytes())
    return {"bundle": bundle.version, "baseline": h.hexdigest()[:12]}


def quick_probabilities(
    baseline: Baseline, card: dict[str, Any], prepared: list[str]
) -> dict[str, Floats]:
    """Return a baseline's calibrated probabilities by task, shape (texts, labels)."""
    if not prepared:
        return {t: np.zeros((0, len(labels))) for t, labels in baseline.task_map}
    return split_logits(baseline.logits(prepared), baseline.task_map, card["temperatures"])


def sureness(probabilities: dict[str, Floats]) -> Floats:
    """Return how sure the baseline is of each text: the probability of its least sure answer."""
    tops = [p.max(axis=1) for p in probabilities.values()]
    return np.asarray(np.min(tops, axis=0), dtype=np.float64)


@dataclass(frozen=True)
class Cut:
    """A fitted cut: the share of validation texts it takes off CamemBERT, macro-F1 before and after."""

    cut: float
    deflected: float
    camembert: dict[str, float]
    cascade: dict[str, float]


def fit_cut(
    quick: dict[str, Floats], slow: dict[str, Floats], truth: Ints, margin: float = MARGIN
) -> Cut:
    """Return the lowest cut with which no task's macro-F1 falls by more than `margin`.

    The surest texts go over to the baseline one by one until a task would lose more; a later
    recovery is luck and not waited for. `truth` has shape (texts, tasks), `MISSING` for unknown.
    """
    sure = sureness(quick)
    order = np.argsort(-sure, kind="stable")
    alone = _scores(quick, slow, truth, np.zeros(len(sure), dtype=bool))
    best, cut, easy = alone, NEVER, np.zeros(len(sure), dtype=bool)
    for k, i in enumerate(order):
        easy[i] = True
        if k + 1 < len(order) and sure[order[k + 1]] == sure[i]:
            continue  # texts of equal sureness go together
        scores = _scores(quick, slow, truth, easy)
        if any(scores[t] < alone[t] - margin for t in alone):
            break
        best, cut = scores, float(sure[i])
    return Cut(cut, float((sure >= cut).mean()), alone, best)


def _scores(
    quick: dict[str, Floats], slow: dict[str, Floats], truth: Ints, easy: Any
) -> dict[str, float]:
    out = {}
    for t, (task, p) in enumerate(quick.items()):
        known = truth[:, t] != MISSING
        guess = np.where(easy, p.argmax(axis=1), slow[task].argmax(axis=1))[known]
        out[task] = float(macro_f1(confusion_matrix(truth[known, t], guess, p.shape[1])))
    return out


def fit_cascade(
    model: str,
    folder: Path,
    experiment: str,
    overrides: Sequence[str],
    *,
    other_corpus: bool = False,
) -> Cut:
    """Fit the cut of a bundle and a baseline on the corpus' validation split; write `cascade.json`.

    Raises `BundleError` when a model was trained on another corpus than this one, whose validation
    articles it may know, unless `other_corpus` says that this is meant.
    """
    from presseco.config import read_config
    from presseco.corpus import build_corpus
    from presseco.examples import load_data

    classifier = Classifier.load(model)
    baseline, card = open_baseline(folder, classifier.bundle)
    data = load_data(build_corpus(read_config(experiment, overrides))[0])
    trained_on = {classifier.bundle.lineage.get("corpus_digest"), card["lineage"]["corpus_digest"]}
    if trained_on != {data.corpus.digest} and not other_corpus:
        raise BundleError(
            f"the models were trained on corpus {', '.join(map(str, trained_on))}, this one is "
            f"{data.corpus.digest}: its validation articles may be known to them. Train again (make "
            "train), or give --other-corpus if they are not."
        )
    texts = data.validation.texts
    found = fit_cut(
        quick_probabilities(baseline, card, [prepare(t) for t in texts]),
        _slow(classifier, texts),
        data.validation.labels,
    )
    content = {
        "cut": found.cut,
        "margin": MARGIN,
        "models": fingerprints(folder, classifier.bundle),
        "validation": {
            "corpus": data.corpus.digest,
            "articles": len(texts),
            "deflected": round(found.deflected, 4),
            "macro_f1": {"camembert": found.camembert, "cascade": found.cascade},
        },
    }
    write_text(folder / CASCADE, json.dumps(content, indent=1) + "\n")
    return found


def _slow(classifier: Classifier, texts: list[str]) -> dict[str, Floats]:
    given = classifier.predict(texts)
    return {
        t.name: np.array([list(p[t.name].probabilities.values()) for p in given])
        for t in classifier.bundle.tasks
    }
