"""The pictures of a run: confusion matrices and reliability curves."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure

from presseco.evaluate import BINS, Floats, Ints, TaskScore
from presseco.taxonomy import MISSING

_BLUE, _GREY = "#1f4e79", "#8a8a8a"


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
        top, right = p.max(axis=1), p.argmax(axis=1) == t
        bins = np.minimum((top * BINS).astype(int), BINS - 1)
        used = np.unique(bins)
        axes.plot([0, 1], [0, 1], color=_GREY, lw=1, ls="--")
        axes.bar(
            (used + 0.5) / BINS,
            [np.mean(bins == b) for b in used],
            width=0.9 / BINS,
            color="#d0dcea",
        )
        axes.plot(
            [top[bins == b].mean() for b in used],
            [right[bins == b].mean() for b in used],
            marker="o",
            ms=4,
            color=_BLUE,
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy (bars: share of texts)")
    figure.suptitle(f"Reliability · {title}", fontsize=11)
    return figure


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
