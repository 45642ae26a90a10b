"""What the words of an article say by themselves: a logistic regression over word pieces.

A small encoder forgets rare words that a linear model uses well, and the two err on different
articles. `widen` writes this one into the fine-tuned model's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from presseco.evaluate import Floats, Ints
from presseco.taxonomy import MISSING, slices

Ids = Sequence[Sequence[int]]

#: Inverse strength of the regression's penalty, articles scaled to a mean square of 1. Of 2, 4 and 8
#: the second was best on validation by .1 to .2 points: it hardly matters.
_C = 4.0
#: How many tokens `<s>` counts for, saying nothing: so a text of ten words says little and an article
#: much. Of 1, 30, 100, 200, 300 and 1,000 all but the first had the same accuracy on validation. Of the
#: answers given to headlines alone (n = 1,300) there were wrong, by task: .21/.25/.28 with 1,
#: .15/.14/.21 with 100, .13/.13/.18 with 200, .12/.13/.18 with 300.
SILENT_WORDS = 200
#: Of the logarithm of the scale (as far as a temperature goes) and of the factor. Where a model knows
#: nothing of a task, any factor does, and large ones cost precision.
_BOUNDS = [(-2.3, 2.3), (0.0, 8.0)]


@dataclass(frozen=True)
class Words:
    """Logits of an article: the mean over its tokens of their rows in `table`, plus `bias`.

    The first token (`<s>`) counts `SILENT_WORDS` times and has a row of zeros. `table` has shape
    (vocabulary, labels of all tasks), `bias` (labels of all tasks); every task's labels of a row have the
    mean 0.
    """

    table: Floats
    bias: Floats

    def logits(self, ids: Ids) -> Floats:
        """Return the flat logits of texts given as token ids, shape (texts, labels of all tasks)."""
        return np.asarray(_shares(ids, len(self.table)) @ self.table + self.bias)


def fit_words(ids: Ids, labels: Ints, task_map: list[list[Any]], vocabulary: int) -> Words:
    """Fit one-versus-rest logistic regressions on the articles' token counts.

    `labels` has shape (texts, tasks); a text with `MISSING` is left out of its task, one with `OUTSIDE`
    is an example of no label. A word counts more the fewer articles have it (inverse document
    frequency, smoothed as scikit-learn's).
    """
    shares = _shares(ids, vocabulary)
    spread = np.bincount(shares.indices, minlength=vocabulary)
    weight = np.log((1 + len(ids)) / (1 + spread)) + 1
    x = shares.multiply(weight).tocsr()
    size = np.sqrt(x.multiply(x).sum() / len(ids))
    x = x / size
    width = slices(task_map)[-1].stop
    table, bias = np.zeros((vocabulary, width)), np.zeros(width)
    for t, s in enumerate(slices(task_map)):
        known = labels[:, t] != MISSING
        for label in range(s.stop - s.start):
            table[:, s.start + label], bias[s.start + label] = _one(
                x[known], labels[known, t] == label
            )
        # A number added to all labels of a task changes no answer; without it, sizes are smallest.
        table[:, s.start : s.stop] -= table[:, s.start : s.stop].mean(axis=1, keepdims=True)
        bias[s.start : s.stop] -= bias[s.start : s.stop].mean()
    return Words(table * (weight / size)[:, None], bias)


def _one(x: csr_matrix, own: Any) -> tuple[Floats, float]:
    if own.all() or not own.any():  # nothing to tell apart: as likely as its share, smoothed
        return np.zeros(x.shape[1]), float(np.log((own.sum() + 0.5) / ((~own).sum() + 0.5)))
    model = LogisticRegression(
        C=_C, class_weight="balanced", solver="liblinear", dual=True, max_iter=200, random_state=0
    ).fit(x, own)
    return model.coef_[0], float(model.intercept_[0])


def _shares(ids: Ids, vocabulary: int) -> csr_matrix:
    """Return each token's share of each text, shape (texts, vocabulary), but that of `<s>`."""
    counts = [len(i) - 1 for i in ids]
    rows = np.repeat(np.arange(len(ids)), counts)
    columns = np.concatenate([np.asarray(i[1:], dtype=np.int64) for i in ids])
    values = np.repeat([1 / (n + SILENT_WORDS) for n in counts], counts)
    # A text may hold the characters `<s>`: they say nothing either.
    values[columns == ids[0][0]] = 0
    found = csr_matrix((values, (rows, columns)), shape=(len(ids), vocabulary))
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def strengths(logits: Floats, said: Floats, truth: Ints, task_map: list[list[Any]]) -> Floats:
    """Return a factor a task for the words' logits beside the model's, shape (tasks,).

    The best in log-loss on held-out articles, at the scale that suits both together best (the scale
    itself is the temperature's business). 0 for a task that has no held-out label.
    """
    out = np.zeros(len(task_map))
    for t, s in enumerate(slices(task_map)):
        known = truth[:, t] >= 0
        if known.any():
            own, words = logits[known, s.start : s.stop], said[known, s.start : s.stop]
            arguments = (own, words, truth[known, t])
            found = minimize(_loss, [0.0, 1.0], arguments, method="Nelder-Mead", bounds=_BOUNDS)
            out[t] = found.x[1]
    return out


def _loss(at: Floats, own: Floats, words: Floats, right: Ints) -> float:
    z = np.exp(at[0]) * (own + at[1] * words)
    z = z - z.max(axis=1, keepdims=True)
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), right]).mean())
