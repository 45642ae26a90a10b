"""Measure what a random split would flatter: the same model, divided at random and by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold, KFold

from presseco.article import Article
from presseco.split import company_key
from presseco.text import prepare

#: What may leak; each is a way to divide the articles so that it does not.
GROUPINGS = ("story", "company", "writer")
_FOLDS = 3


@dataclass(frozen=True)
class Inflation:
    """Macro-F1 of one task: articles divided at random, and by story, company, writer.

    A grouping that has fewer than three groups, or only groups of one, is None: it divides nothing.
    """

    task: str
    articles: int
    random: float
    grouped: dict[str, float | None]

    def gain(self, grouping: str) -> float | None:
        """Return by how much the random split flatters, in points of macro-F1 (0 to 1)."""
        score = self.grouped[grouping]
        return None if score is None else self.random - score


def inflation(
    articles: Sequence[Article], stories: Sequence[str], task: str, seed: int = 1
) -> Inflation:
    """Cross-validate TF-IDF and logistic regression on the task's labelled articles, each way."""
    chosen = [i for i, a in enumerate(articles) if a.labels.get(task)]
    texts = [prepare(articles[i].text) for i in chosen]
    labels = np.array([articles[i].labels[task] for i in chosen])
    keys = {
        "story": [stories[i] for i in chosen],
        "company": [company_key(articles[i].company) for i in chosen],
        "writer": [articles[i].writer for i in chosen],
    }
    return Inflation(
        task,
        len(chosen),
        _score(texts, labels, None, seed),
        {name: _grouped(texts, labels, keys[name], seed) for name in GROUPINGS},
    )


def _grouped(
    texts: Sequence[str], labels: npt.NDArray[np.str_], keys: Sequence[str], seed: int
) -> float | None:
    # An article without a company shares it with nobody: a group of its own.
    groups = np.array([k or f"?{i}" for i, k in enumerate(keys)])
    number = len(set(groups))
    if number < _FOLDS or number == len(groups):
        return None
    return _score(texts, labels, groups, seed)


def _score(
    texts: Sequence[str],
    labels: npt.NDArray[np.str_],
    groups: npt.NDArray[np.str_] | None,
    seed: int,
) -> float:
    folds = KFold if groups is None else GroupKFold
    found = np.empty_like(labels)
    for train, test in folds(_FOLDS, shuffle=True, random_state=seed).split(texts, groups=groups):
        views = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=3, max_features=20000)
        model = LogisticRegression(C=8.0, max_iter=100)
        model.fit(views.fit_transform([texts[i] for i in train]), labels[train])
        found[test] = model.predict(views.transform([texts[i] for i in test]))
    # One score over all articles: a mean over folds would reward small folds that lack a class.
    return float(f1_score(labels, found, average="macro"))


def table(rows: Sequence[Inflation]) -> str:
    """Return the comparison as a Markdown table."""
    head = "| task | articles | random | " + " | ".join(f"by {g}" for g in GROUPINGS)
    out = [head + " | flattery at most |", "|---|---:|---:|" + "---:|" * len(GROUPINGS) + "---:|"]
    for r in rows:
        scores = [f"{s:.3f}" if (s := r.grouped[g]) is not None else "–" for g in GROUPINGS]
        gains = [g for name in GROUPINGS if (g := r.gain(name)) is not None]
        worst = f"{max(gains):+.3f}" if gains else "–"
        out.append(f"| {r.task} | {r.articles} | {r.random:.3f} | {' | '.join(scores)} | {worst} |")
    return "\n".join(out) + "\n"
