"""Is the corpus varied, or could a model cheat? Repetition counts and shortcut probes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from presseco.article import Article
from presseco.stories import near_pairs

_WORD = re.compile(r"\w+")
#: A capitalised word that does not open a sentence or line: in French, nearly always a name.
_NAME = re.compile(r"(?<=[a-zà-ÿ,;] )[A-ZÀ-Ý][\w'’&-]+")


def repetition(articles: Sequence[Article]) -> dict[str, float]:
    """Return the measures of repetition over all articles.

    `closest_pair`: largest Jaccard of word 5-grams; `distinct_openings`: share of distinct first
    five words.
    """
    texts = [a.text for a in articles]
    pairs = near_pairs(texts, 0.02)
    openings = Counter(" ".join(_WORD.findall(t.casefold())[:5]) for t in texts)
    return {
        "closest_pair": max((j for _, _, j in pairs), default=0.0),
        "distinct_openings": len(openings) / len(texts),
    }


def commonest_phrase(articles: Sequence[Article]) -> tuple[str, float]:
    """Return the word 5-gram that most articles hold, and their share."""
    owners: Counter[str] = Counter()
    for a in articles:
        words = _WORD.findall(a.text.casefold())
        owners.update({" ".join(words[i : i + 5]) for i in range(len(words) - 4)})
    phrase, count = owners.most_common(1)[0]
    return phrase, count / len(articles)


def type_token_curve(articles: Sequence[Article], points: int = 40) -> tuple[list[int], list[int]]:
    """Return words read and distinct words met, articles taken in a fixed shuffled order."""
    order = np.random.default_rng(0).permutation(len(articles))
    words = [w for i in order for w in _WORD.findall(articles[i].text.casefold())]
    steps = np.linspace(0, len(words), points + 1, dtype=int)[1:]
    seen: set[str] = set()
    curve, last = [], 0
    for s in steps:
        seen.update(words[last:s])
        last = int(s)
        curve.append(len(seen))
    return steps.tolist(), curve


def shortcut_probes(
    train: Sequence[Article], test: Sequence[Article], task: str
) -> dict[str, dict[str, float]]:
    """Return accuracy on `test` of classifiers that see only a shortcut, beside the commonest label.

    Near chance is what the corpus wants: then length, opening and names give nothing away.
    """
    y = [str(a.labels[task]) for a in train]
    truth = np.array([str(a.labels[task]) for a in test])
    views: dict[str, Any] = {
        "first five words": lambda a: " ".join(_WORD.findall(a.text)[:5]),
        "first five words under the headline": lambda a: " ".join(
            _WORD.findall(a.text.removeprefix(a.title))[:5]
        ),
        "names only": lambda a: " ".join(_NAME.findall(a.text)),
    }
    out = {"commonest label": _score(DummyClassifier(), np.zeros((len(y), 1)), y, test, truth)}
    for name, view in views.items():
        counts = CountVectorizer(token_pattern=r"(?u)\b\w+\b", min_df=1)
        x: csr_matrix = counts.fit_transform([view(a) for a in train])
        model = LogisticRegression(C=1.0, max_iter=300).fit(x, y)
        guess = model.predict(counts.transform([view(a) for a in test]))
        out[name] = {"accuracy": float((guess == truth).mean())}
    length = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    length.fit(_lengths(train), y)
    out["length only"] = {"accuracy": float((length.predict(_lengths(test)) == truth).mean())}
    return out


def _lengths(articles: Sequence[Article]) -> Any:
    rows = [(len(a.text.split()), len(a.text), a.text.count("\n"), len(a.title)) for a in articles]
    return np.log1p(np.array(rows, dtype=float))


def _score(
    model: Any, x: Any, y: list[str], test: Sequence[Article], truth: Any
) -> dict[str, float]:
    guess = model.fit(x, y).predict(np.zeros((len(test), 1)))
    return {"accuracy": float((guess == truth).mean())}
