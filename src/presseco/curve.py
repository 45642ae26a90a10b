"""Learning curves: scores against the number of training articles, several seeds, one picture."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import transformers
from matplotlib.figure import Figure
from rich.console import Console

from presseco import tracking
from presseco.config import Config, read_config
from presseco.corpus import build_corpus
from presseco.examples import Data, load_data
from presseco.experiments import read_experiments
from presseco.files import replacing
from presseco.points import (
    compute_point,
    find_point,
    flat_metrics,
    forget_encoded,
    merge_points,
    point_key,
    share_encoded,
    subset,
)
from presseco.progress import progress
from presseco.table import HUMAN

#: Sizes less than this factor under the next share its number on the picture's axis.
_APART = 1.5


def learning_curve(
    experiments: Sequence[str], overrides: Sequence[str], sizes: Sequence[int], seeds: Sequence[int]
) -> Path:
    """Train every experiment on nested subsets; write benchmarks/curve.json and the picture.

    The subset of a seed and size is the same for all models; size 0 means all articles. Points
    computed before with the same settings (build/points) are taken from there, each new one is
    appended to the file at once, so a stopped curve goes on where it was.
    """
    first = read_experiments(experiments, overrides)[0]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tracking.record(first.root, first.tracking.experiment)
    corpus, _ = build_corpus(first)
    whole = load_data(corpus)
    path = first.path("benchmarks/curve.json")
    points: list[dict[str, Any]] = []
    with tracking.run("learning curve", tags={"purpose": "curve", "corpus": corpus.digest}):
        for size in _sizes(sizes, len(whole.train.ids)):
            for seed in seeds:
                data = subset(whole, size, seed)
                configs = [read_config(e, [*overrides, f"seed={seed}"]) for e in experiments]
                for config in configs:
                    forget_encoded(data, *configs)
                    points.append(_point(config, data))
                    merge_points(path, points[-1:])
                share_encoded(whole, data)
            _log_means(points)
        figure = curve_figure(points)
        mlflow.log_figure(figure, "learning_curve.png")
        mlflow.log_dict({"points": points}, "learning_curve.json")
    with replacing(first.path("docs/figures/curve.png")) as picture:
        figure.savefig(picture, dpi=110, format="png")
    return path


def _sizes(sizes: Sequence[int], count: int) -> list[int]:
    """Return the sizes in rising order, once each; 0 and more than there are mean all."""
    return sorted({min(s or count, count) for s in sizes})


def _point(config: Config, data: Data) -> dict[str, Any]:
    key = point_key(config, data)
    name = f"{config.name} · {len(data.train.ids)} articles · seed {config.seed}"
    console = Console()
    point = find_point(config, key)
    if point is None:
        tags = {"purpose": "curve", "kind": config.kind}
        with (
            tracking.run(name, nested=True, tags=tags),
            progress(console, name) as report,
        ):
            mlflow.log_params({"articles": len(data.train.ids), "seed": config.seed})
            point = compute_point(
                config, data, key, report, lambda m, step: mlflow.log_metrics(m, step=step)
            )
            mlflow.log_metrics(flat_metrics(point))
    scores = {t: round(s["macro_f1"], 3) for t, s in point["test"].items()}
    console.print(f"{name}: {scores}, {point['seconds']:.0f} s", markup=False, soft_wrap=True)
    return point | {"model": config.name}


def _log_means(points: Sequence[dict[str, Any]]) -> None:
    """Log the means over seeds of the largest size so far to the parent run, as its step."""
    articles = points[-1]["articles"]
    means: dict[str, list[float]] = defaultdict(list)
    for p in points:
        if p["articles"] == articles:
            for task, scores in p["test"].items():
                means[f"{p['model']}.{task}.macro_f1"].append(scores["macro_f1"])
    mlflow.log_metrics({k: float(np.mean(v)) for k, v in means.items()}, step=articles)


def curve_figure(points: Sequence[dict[str, Any]]) -> Figure:
    """Return one panel a task: mean over seeds with min-max band, agreement of humans dashed."""
    tasks = list(points[0]["test"])
    figure = Figure(figsize=(3.4 * len(tasks), 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(tasks), sharey=True))
    for axes, task in zip(panels, tasks, strict=True):
        for model in dict.fromkeys(p["model"] for p in points):
            x, mean, low, high = _line([p for p in points if p["model"] == model], task)
            axes.plot(x, mean, marker="o", ms=4, label=model)
            axes.fill_between(x, low, high, alpha=0.15)
        if task in HUMAN:
            axes.axhline(HUMAN[task], color="#444", ls="--", lw=1, label="_human")
            text = f"two annotators agree: κ = {HUMAN[task]:.2f}"
            axes.text(
                0.02, HUMAN[task] + 0.01, text, fontsize=7, transform=axes.get_yaxis_transform()
            )
        axes.set_xscale("log")
        sizes = sorted({p["articles"] for p in points})
        # A number too near to the next would be printed over it.
        far = [n * _APART < m for n, m in zip(sizes, [*sizes[1:], math.inf], strict=True)]
        names = [f"{n:,}" if alone else "" for n, alone in zip(sizes, far, strict=True)]
        axes.set_xticks(sizes, names, fontsize=8)
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("training articles")
    figure.axes[0].set_ylabel("macro-F1, test split")
    figure.axes[0].legend(fontsize=8, loc="lower right")
    seeds = Counter((p["model"], p["articles"]) for p in points).values()
    least, most = min(seeds), max(seeds)
    some = str(most) if least == most else f"{least} to {most}"
    note = f"Mean of {some} seeds, band: least to most. Dashed: κ on 257 press documents."
    figure.supxlabel(note, fontsize=7)
    return figure


def _line(
    points: Sequence[dict[str, Any]], task: str
) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return the sizes, and mean, least and most over seeds of a task's macro-F1 at each."""
    values: dict[int, list[float]] = defaultdict(list)
    for p in points:
        values[p["articles"]].append(p["test"][task]["macro_f1"])
    x = sorted(values)
    mean = [float(np.mean(values[n])) for n in x]
    return x, mean, [min(values[n]) for n in x], [max(values[n]) for n in x]
