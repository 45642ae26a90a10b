"""Which articles to label next: those the model is least sure of, unlike each other; and when to stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from presseco.agreement import kappa
from presseco.classifier import Prediction
from presseco.files import write_text
from presseco.text import prepare

#: Candidates per article asked for: diversity chooses among the least sure ones only.
_SPREAD = 5
#: Stabilising predictions (Bloodgood and Vijay-Shanker, CoNLL 2009): stop when successive models
#: agree on a fixed set with kappa of at least .99, three rounds running.
STABLE_KAPPA, STABLE_ROUNDS = 0.99, 3
#: The fixed set: so many articles of the pool, drawn by their ids' order in the first round.
STOP_SET = 2_000


def uncertainty(predictions: Sequence[Prediction]) -> np.ndarray:
    """Return one number an article in 0..1: 1 - (best - second probability), mean over the tasks."""
    out = []
    for p in predictions:
        margins = []
        for a in p.answers.values():
            best, second = sorted(a.probabilities.values(), reverse=True)[:2]
            margins.append(best - second)
        out.append(1 - float(np.mean(margins)))
    return np.array(out)


def choose(texts: Sequence[str], unsure: np.ndarray, n: int) -> list[int]:
    """Return the positions of `n` articles to label, best first.

    Among the `5 n` least sure: first the least sure one, then again and again the one for which
    doubt x distance to the nearest chosen text (1 - cosine of TF-IDF) is largest.
    """
    order = np.argsort(-unsure, kind="stable")[: max(n * _SPREAD, n)]
    if len(order) <= n:
        return [int(i) for i in order]
    vectors = TfidfVectorizer(sublinear_tf=True, max_features=20_000).fit_transform(
        [prepare(texts[i]) for i in order]
    )
    distance = np.full(len(order), 1.0)
    chosen: list[int] = []
    score = unsure[order].astype(float)
    while len(chosen) < n:
        best = int(
            np.argmax(np.where(np.isin(np.arange(len(order)), chosen), -1, score * distance))
        )
        chosen.append(best)
        distance = np.minimum(distance, 1 - (vectors @ vectors[best].T).toarray().ravel())
    return [int(order[i]) for i in chosen]


def stable(file: Path, ids: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Add this round's answers on the stop set to `file` and say whether to stop.

    Returns `rounds`, `kappa` (the least of the tasks, against the round before; None in the first),
    `run` (rounds in a row that were stable) and `stop`. The same model twice is no new round.
    """
    state = json.loads(file.read_text("utf-8")) if file.exists() else {"ids": [], "rounds": []}
    if not state["ids"]:
        state["ids"] = sorted(ids)[:STOP_SET]
    answers = {
        i: {t: a.label for t, a in p.answers.items()} for i, p in zip(ids, predictions, strict=True)
    }
    model = predictions[0].model if predictions else ""
    if not state["rounds"] or state["rounds"][-1]["model"] != model:
        state["rounds"].append({"model": model, "answers": [answers.get(i) for i in state["ids"]]})
        write_text(file, json.dumps(state, ensure_ascii=False))
    kappas = [
        _agreement(a["answers"], b["answers"])
        for a, b in zip(state["rounds"], state["rounds"][1:], strict=False)
    ]
    run = 0
    while run < len(kappas) and kappas[-1 - run] >= STABLE_KAPPA:
        run += 1
    return {
        "rounds": len(state["rounds"]),
        "kappa": kappas[-1] if kappas else None,
        "run": run,
        "stop": run >= STABLE_ROUNDS,
    }


def _agreement(one: list[dict[str, str] | None], two: list[dict[str, str] | None]) -> float:
    """Return the least kappa over the tasks, on articles that both rounds still had in the pool."""
    both = [(a, b) for a, b in zip(one, two, strict=True) if a and b]
    if not both:
        return 0.0
    return min(kappa([a[t] for a, _ in both], [b[t] for _, b in both]) for t in both[0][0])
