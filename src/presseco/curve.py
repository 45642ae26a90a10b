"""Learning curves: scores against the number of training articles, several seeds, one picture."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from presseco import tracking
from presseco.config import Config, read_config
from presseco.corpus import build_corpus
from presseco.evaluate import score_all, split_logits
from presseco.files import write_text
from presseco.fit import Data, Examples, fit, load_data
from presseco.results import HUMAN
from presseco.work import working


def learning_curve(
    experiments: Sequence[str], overrides: Sequence[str], sizes: Sequence[int], seeds: Sequence[int]
) -> Path:
    """Train every experiment on nested subsets; write benchmarks/curve.json and the picture.

    The subset of a seed and size is the same for all models; size 0 means all articles. Points in
    the file already, for the same corpus and settings, are not computed again.
    """
    first = read_config(experiments[0], overrides)
    tracking.connect(first.root, first.tracking.experiment)
    corpus, _ = build_corpus(first)
    data = load_data(corpus)
    path = first.path("benchmarks/curve.json")
    points: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    points = [p for p in points if p["corpus"] == corpus.digest]
    console = Console()
    with tracking.run("learning curve", tags={"purpose": "curve", "corpus": corpus.digest}):
        for size, seed, experiment in (
            (size, seed, e) for size in sizes for seed in seeds for e in experiments
        ):
            config = read_config(experiment, [*overrides, f"seed={seed}"])
            key = {"model": config.name, "articles": size or len(data.train.ids), "seed": seed}
            if any(key.items() <= p.items() for p in points):
                continue
            scores = _point(config, subset(data, size, seed))
            points.append(key | {"corpus": corpus.digest, **scores})
            mlflow.log_metrics(
                {f"{config.name}.{t}": v for t, v in scores.items()}, step=key["articles"]
            )
            console.print(f"{key} { ({t: round(v, 3) for t, v in scores.items()}) }")
            write_text(path, json.dumps(points, indent=1) + "\n")
        figure = curve_figure(points)
        mlflow.log_figure(figure, "learning_curve.png")
    target = first.path("docs/figures/curve.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=100)
    return path


def subset(data: Data, size: int, seed: int) -> Data:
    """Return the data with the first `size` training articles of the seed's permutation (0: all)."""
    count = len(data.train.ids)
    if not size or size >= count:
        return replace(data, encoded={})
    pick = np.random.default_rng(seed).permutation(count)[:size]
    train = Examples(
        [data.train.ids[i] for i in pick],
        [data.train.texts[i] for i in pick],
        data.train.labels[pick],
    )
    return replace(data, train=train, encoded={})


def _point(config: Config, data: Data) -> dict[str, float]:
    # The subset is part of what a checkpoint belongs to, so it is part of the folder's name.
    with working(config, f"{data.corpus.digest}-{len(data.train.ids)}") as work:
        fitted = fit(config, data, work, lambda *_: None, lambda *_: None)
    p = split_logits(fitted.logits["test"], data.task_map)
    return {s.task: s.macro_f1 for s in score_all(data.task_map, p, data.test.labels)}


def curve_figure(points: Sequence[dict[str, Any]]) -> Figure:
    """Return one panel a task: mean over seeds with min-max band, agreement of humans dashed."""
    fixed = {"model", "articles", "seed", "corpus"}
    tasks = [k for k in points[0] if k not in fixed]
    figure = Figure(figsize=(3.4 * len(tasks), 3.4), layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        for model in dict.fromkeys(p["model"] for p in points):
            values: dict[int, list[float]] = defaultdict(list)
            for p in points:
                if p["model"] == model:
                    values[p["articles"]].append(p[task])
            x = sorted(values)
            axes.plot(x, [np.mean(values[n]) for n in x], marker="o", ms=4, label=model)
            low, high = [min(values[n]) for n in x], [max(values[n]) for n in x]
            axes.fill_between(x, low, high, alpha=0.15)
        if task in HUMAN:
            axes.axhline(HUMAN[task], color="#444", ls="--", lw=1)
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("training articles")
    figure.axes[0].set_ylabel("macro-F1, test split")
    figure.axes[-1].legend(fontsize=8)
    return figure
