"""The pictures of a run and of a comparison: what is confused, how sure it is, how it learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure

from presseco.evaluate import BINS, Floats, Ints, TaskScore
from presseco.taxonomy import MISSING

_BLUE, _GREY, _RED = "#1f4e79", "#8a8a8a", "#b42318"


def confusion_figure(score: TaskScore, title: str) -> Figure:
    """Return the confusion matrix as shares of each true label, with the counts written in."""
    labels = [r["label"] for r in score.per_class]
    k = len(labels)
    side = max(3.6, 0.5 * k + 2.2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = score.confusion / np.maximum(score.confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(score.confusion), strict=True):
        color = "white" if share[i, j] > 0.5 else "black"
        axes.text(
            j, i, str(score.confusion[i, j]), ha="center", va="center", color=color, fontsize=8
        )
    axes.set_xticks(range(k), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(k), labels, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(
        f"{title} · {score.task}\nmacro-F1 {score.macro_f1:.3f}, n = {score.n}", fontsize=10
    )
    return figure


def reliability_figure(
    task_names: list[str], probabilities: dict[str, Floats], truth: Ints, title: str
) -> Figure:
    """Return accuracy against confidence for every task, with the share of texts a bin."""
    n = len(task_names)
    figure = Figure(figsize=(3.6 * n, 3.8), layout="constrained")
    for i, (name, axes) in enumerate(
        zip(task_names, np.atleast_1d(figure.subplots(1, n)), strict=True)
    ):
        known = truth[:, i] != MISSING
        p, t = probabilities[name][known], truth[known, i]
        axes.plot([0, 1], [0, 1], color=_GREY, lw=1, ls="--")
        x, _, shares = _reliability(axes, p, t, _BLUE)
        axes.bar(x, shares, width=0.9 / BINS, color="#d0dcea", zorder=0)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy (bars: share of texts)")
    figure.suptitle(f"Reliability · {title}", fontsize=11)
    return figure


def _reliability(axes: Any, p: Floats, t: Ints, color: str, label: str = "") -> Any:
    """Draw accuracy against confidence; return the bins' centres, accuracies and shares of texts."""
    top, right = p.max(axis=1), p.argmax(axis=1) == t
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    used = np.unique(bins)
    accuracy = [right[bins == b].mean() for b in used]
    axes.plot(
        [top[bins == b].mean() for b in used], accuracy, marker="o", ms=4, color=color, label=label
    )
    return (used + 0.5) / BINS, accuracy, [np.mean(bins == b) for b in used]


def risk_figure(curves: dict[str, tuple[Any, Any]], target: float, title: str) -> Figure:
    """Return risk against coverage: `curves` maps a task to (coverage, risk)."""
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, (coverage, risk) in curves.items():
        axes.plot(coverage, risk, label=name)
    axes.axhline(target, color=_GREY, ls="--", lw=1)
    axes.set_xlabel("coverage: share of texts answered")
    axes.set_ylabel("risk: share of answers wrong")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.set_title(f"Risk and coverage · {title}", fontsize=10)
    return figure


def f1_figure(scores: Sequence[TaskScore], title: str) -> Figure:
    """Return F1 by label as bars, best on top, one panel a task."""
    tallest = max(len(s.per_class) for s in scores)
    figure = Figure(figsize=(3.9 * len(scores), 0.26 * tallest + 1.2), layout="constrained")
    for s, axes in zip(scores, np.atleast_1d(figure.subplots(1, len(scores))), strict=True):
        rows = sorted(s.per_class, key=lambda r: r["f1"])
        y = range(tallest - len(rows), tallest)  # short lists hang from the top
        axes.barh(y, [r["f1"] for r in rows], color=_BLUE, height=0.7)
        for i, r in zip(y, rows, strict=True):
            axes.text(0.02, i, f"{r['f1']:.2f}", color="white", va="center", fontsize=7)
        axes.set_yticks(y, [f"{r['label']} ({r['n']})" for r in rows], fontsize=8)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, tallest - 0.4)
        axes.set_title(f"{s.task}: macro-F1 {s.macro_f1:.3f}", fontsize=10)
    figure.suptitle(f"F1 by label (test texts) · {title}", fontsize=11)
    return figure


def epochs_figure(history: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """Return one panel a metric: its value after each epoch."""
    figure = Figure(figsize=(3.6 * len(history), 2.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(history)))
    for (name, points), axes in zip(history.items(), panels, strict=True):
        epochs = [step for step, _ in points]
        axes.plot(epochs, [value for _, value in points], marker="o", ms=4, color=_BLUE)
        axes.set_xticks(epochs)
        axes.set_xlabel("epoch")
        axes.set_title(name, fontsize=10)
    figure.suptitle(f"By epoch · {title}", fontsize=11)
    return figure


def change_figure(per_class: Sequence[Mapping[str, Any]]) -> Figure:
    """Return F1 of B minus A by label, largest gain on top, one panel a task."""
    tasks = list(dict.fromkeys(r["task"] for r in per_class))
    tallest = max(sum(r["task"] == t for r in per_class) for t in tasks)
    widest = max(0.05, *(abs(r["b"] - r["a"]) for r in per_class)) * 1.15
    figure = Figure(figsize=(3.9 * len(tasks), 0.26 * tallest + 1.2), layout="constrained")
    for task, axes in zip(tasks, np.atleast_1d(figure.subplots(1, len(tasks))), strict=True):
        rows = sorted(
            (r for r in per_class if r["task"] == task), key=lambda r: float(r["b"] - r["a"])
        )
        y = range(tallest - len(rows), tallest)
        values = [r["b"] - r["a"] for r in rows]
        axes.barh(y, values, color=[_BLUE if v >= 0 else _RED for v in values], height=0.7)
        axes.axvline(0, color=_GREY, lw=1)
        axes.set_yticks(y, [f"{r['label']} ({r['n']})" for r in rows], fontsize=8)
        axes.set_xlim(-widest, widest)
        axes.set_ylim(-0.6, tallest - 0.4)
        axes.set_title(task, fontsize=10)
    figure.suptitle("F1 by label: B minus A (test texts)", fontsize=11)
    return figure


def two_reliabilities_figure(answers: Mapping[str, Sequence[tuple[Floats, Ints]]]) -> Figure:
    """Return accuracy against confidence of A and B; `answers` maps a task to both runs'."""
    figure = Figure(figsize=(3.6 * len(answers), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(answers)))
    for (task, pair), axes in zip(answers.items(), panels, strict=True):
        axes.plot([0, 1], [0, 1], color=_GREY, lw=1, ls="--")
        for (p, t), color, label in zip(pair, (_GREY, _BLUE), "AB", strict=True):
            _reliability(axes, p, t, color, label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("confidence")
        axes.legend(fontsize=8)
    panels[0].set_ylabel("accuracy")
    return figure
