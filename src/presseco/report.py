"""The HTML report of one run: what it answers, how sure it is, where it fails, what it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from presseco import page
from presseco.calibration import RISK_TARGET, risk_coverage
from presseco.evaluate import TaskScore
from presseco.figures import (
    confusion_figure,
    epochs_figure,
    f1_figure,
    reliability_figure,
    risk_figure,
)
from presseco.runs import Run
from presseco.table import HUMAN

#: Mistakes quoted a task: the surest ones first, which are either wrong labels or real weaknesses.
_MISTAKES = 25


def run_page(run: Run, history: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Return the whole report; `history` holds (epoch, value) pairs by metric."""
    tasks = list(run.truth)
    scores = [run.score(t) for t in tasks]
    parts = [_scores(run, scores), page.picture(f1_figure(scores, run.model), "f1")]
    parts.append(page.heading("What is taken for what"))
    for i, s in enumerate(scores):
        picture = page.picture(confusion_figure(s, run.model), f"confusion{i}")
        parts.append(page.folded(s.task, picture, open_=i == 0))
    if run.confidence:
        parts += _confidence(run, tasks)
    if history:
        parts += [
            page.heading("Learning"),
            page.picture(epochs_figure(history, run.model), "epochs"),
        ]
    parts += [*_mistakes(run, tasks), page.heading("Made of"), _settings(run)]
    return page.page(run.name, *parts)


def _scores(run: Run, scores: Sequence[TaskScore]) -> str:
    head = ["task", "n", "macro-F1", "95 % interval", "accuracy", "ECE", "answered", "wrong then"]
    rows = []
    for s in scores:
        coverage, risk = (run.metrics.get(f"test.{s.task}.{k}") for k in ("coverage", "risk"))
        shares = ["" if v is None else f"{v:.3f}" for v in (coverage, risk)]
        interval = f"{s.interval[0]:.3f}–{s.interval[1]:.3f}"
        row = [s.task, s.n, f"{s.macro_f1:.3f}", interval, f"{s.accuracy:.3f}", f"{s.ece:.3f}"]
        rows.append([*row, *shares])
    cost = [
        f"{run.metrics[key]:.{digits}f} {words}"
        for key, words, digits in (
            ("docs_per_second", "documents a second", 0),
            ("megabytes", "MB", 0),
            ("minutes", "minutes of training", 1),
        )
        if key in run.metrics
    ]
    human = ", ".join(f"{t} {HUMAN[t]:.2f}" for t in run.truth if t in HUMAN)
    text = (
        f"{', '.join(cost)}. 'answered': share over the threshold that allowed {RISK_TARGET:.0%} "
        "wrong answers on validation; 'wrong then': share of those that are wrong here."
    )
    if human:
        text += f" Two annotators of real press agree to a kappa of: {human}."
    return page.table(head, rows) + page.note(text)


def _confidence(run: Run, tasks: Sequence[str]) -> list[str]:
    parts = [page.heading("How sure, how right")]
    curves = {}
    for i, task in enumerate(tasks):
        _, p, truth = run.answers(task)
        figure = reliability_figure([task], {task: p}, truth[:, np.newaxis], run.model)
        parts.append(page.picture(figure, f"reliability{i}"))
        curves[task] = risk_coverage(p, truth)[1:]
    return [*parts, page.picture(risk_figure(curves, RISK_TARGET, run.model), "risk")]


def _mistakes(run: Run, tasks: Sequence[str]) -> list[str]:
    parts = [page.heading("Mistakes, the surest first")]
    for task in tasks:
        sure = run.confidence.get(task) or [1.0] * len(run.ids)
        wrong = [
            i
            for i, (t, g) in enumerate(zip(run.truth[task], run.guess[task], strict=True))
            if t is not None and t != g
        ]
        wrong.sort(key=lambda i: -sure[i])
        rows = [
            [
                run.texts[i] if run.texts else "",
                run.truth[task][i],
                run.guess[task][i],
                f"{sure[i]:.2f}",
                run.ids[i],
            ]
            for i in wrong[:_MISTAKES]
        ]
        if rows:
            table = page.table(["text", "true", "answered", "sure", "article"], rows)
            parts.append(page.folded(f"{task}: {len(wrong)} mistakes", table))
    return parts if len(parts) > 1 else []


def _settings(run: Run) -> str:
    return page.table(["setting", "value"], [[k, v] for k, v in run.params.items()])
