"""The main job: corpus, models, comparison in MLflow, registry, exported bundle, one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import transformers
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from presseco import tracking
from presseco.calibration import (
    RISK_TARGET,
    answered,
    fit_temperature,
    fit_threshold,
    outside_auroc,
    risk_coverage,
)
from presseco.card import model_card
from presseco.config import Config, differences
from presseco.corpus import build_corpus
from presseco.evaluate import Floats, TaskScore, score_all, split_logits
from presseco.experiments import read_experiments
from presseco.figures import confusion_figure, reliability_figure, risk_figure
from presseco.fit import Data, Fitted, docs_per_second, fit, load_data
from presseco.progress import progress
from presseco.taxonomy import slices
from presseco.work import publish, working

#: Where each kind's saved model goes, and its name in the registry (frozen: compared, not shipped).
DIST = {"baseline": "dist/baseline", "frozen": "dist/frozen", "camembert": "dist/camembert"}
REGISTERED = {"baseline": "presseco-baseline", "camembert": "presseco"}
#: MLflow's compare view is hard to read with more params than this; config.yaml has them all.
MAX_PARAMS = 25


@dataclass(frozen=True)
class Result:
    """One line of the final table."""

    name: str
    kind: str
    run_id: str
    scores: list[TaskScore]
    docs_per_second: float
    megabytes: float
    minutes: float
    folder: Path


def train(experiments: Sequence[str], overrides: Sequence[str] = ()) -> list[Result]:
    """Train every experiment file on one corpus under one parent run; print the table at the end."""
    # Reports of weights that are new on purpose, and bars that last a moment.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console()
    configs = read_experiments(experiments, overrides)
    first = configs[0]
    uri = tracking.connect(first.root, first.tracking.experiment)
    corpus, skipped = build_corpus(first)
    state = "unchanged, build skipped" if skipped else "built"
    console.print(f"[bold]corpus[/] {corpus.digest} ({state}): {corpus.sizes}", soft_wrap=True)
    console.print(f"[bold]tracking[/] {uri}", soft_wrap=True)
    data = load_data(corpus)
    results = []
    title = f"train · {corpus.sizes['train']} articles · seed {first.seed}"
    with tracking.run(title, tags={"purpose": "train", "corpus": corpus.digest}):
        for config in configs:
            results.append(train_one(config, data, console))
        description = markdown_table(results)
        mlflow.set_tag("mlflow.note.content", description)
        for r in results:
            mlflow.log_metrics({f"{r.name}.{s.task}.macro_f1": s.macro_f1 for s in r.scores})
    print_table(results, console)
    return results


def train_one(
    config: Config, data: Data, console: Console, *, purpose: str = "train", register: bool = True
) -> Result:
    """Fit, calibrate, evaluate, save and register one experiment under the active parent run.

    With `register=False` nothing outside the run changes: no registry, no `dist/`.
    """
    started = time.monotonic()
    size = len(data.train.ids)
    name = f"{config.name} · {size} articles · seed {config.seed}"
    tags = {"purpose": purpose, "kind": config.kind, "corpus": data.corpus.digest}
    with (
        working(config, data.corpus.digest) as work,
        tracking.run(name, nested=True, tags=tags) as active,
        progress(console, config.name) as report,
    ):
        mlflow.log_params(_params(config, data))
        mlflow.log_text(config.to_yaml(), "config.yaml")
        mlflow.log_dict(tracking.environment(), "environment.yaml")
        fitted = fit(config, data, work, report, lambda m, step: mlflow.log_metrics(m, step=step))
        calibration = calibrate(fitted, data)
        scores = evaluate(fitted, data, calibration)
        calibration["lineage"] = lineage(config, data, active.info.run_id)
        card = model_card(
            config.name, scores, data.corpus.taxonomy, calibration["lineage"], calibration
        )
        report("export", 0, 1)
        model = work / "model"
        fitted.save(model, calibration, card)
        speed = docs_per_second(model, config.kind, data.test.texts[:200])
        result = Result(
            name=config.name,
            kind=config.kind,
            run_id=active.info.run_id,
            scores=scores,
            docs_per_second=speed,
            megabytes=_shipped_megabytes(model),
            minutes=(time.monotonic() - started) / 60,
            folder=config.path(DIST[config.kind]),
        )
        _log(result, fitted, data, calibration, config)
        if register and config.tracking.register_models and config.kind in REGISTERED:
            report("register", 0, 1)
            _register(result, data, model)
        if register:
            publish(model, result.folder)
    return result


def calibrate(fitted: Fitted, data: Data) -> dict[str, Any]:
    """Return temperatures and abstention thresholds by task, fitted on validation."""
    logits, truth = fitted.logits["validation"], data.validation.labels
    temperatures, thresholds = {}, {}
    for i, s in enumerate(slices(data.task_map)):
        temperatures[s.name] = fit_temperature(logits[:, s.start : s.stop], truth[:, i])
        p = split_logits(logits, data.task_map, temperatures)[s.name]
        thresholds[s.name] = fit_threshold(p, truth[:, i])
    return {"temperatures": temperatures, "thresholds": thresholds}


def evaluate(fitted: Fitted, data: Data, calibration: dict[str, Any]) -> list[TaskScore]:
    """Return the scores on the test split with calibrated probabilities."""
    p = split_logits(fitted.logits["test"], data.task_map, calibration["temperatures"])
    return score_all(data.task_map, p, data.test.labels)


def lineage(config: Config, data: Data, run_id: str) -> dict[str, Any]:
    """Return where a model comes from: run, corpus, code, taxonomy, seed."""
    return {
        "experiment": config.name,
        "run_id": run_id,
        "corpus_digest": data.corpus.digest,
        "train_articles": len(data.train.ids),
        "taxonomy_version": data.corpus.taxonomy.version,
        "git_commit": tracking.git_commit(config.root),
        "encoder": config.camembert.encoder if config.kind != "baseline" else "none",
        "seed": config.seed,
    }


def markdown_table(results: Sequence[Result]) -> str:
    """Return the comparison as a Markdown table: what the parent run's description shows."""
    tasks = [s.task for s in results[0].scores]
    head = ["model", *[f"{t} macro-F1" for t in tasks], "docs/s", "MB", "minutes"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for r in results:
        cells = [f"{s.macro_f1:.3f} ({s.interval[0]:.3f}–{s.interval[1]:.3f})" for s in r.scores]
        cells += [f"{r.docs_per_second:.0f}", f"{r.megabytes:.0f}", f"{r.minutes:.1f}"]
        lines.append(f"| {r.name} | {' | '.join(cells)} |")
    n = ", ".join(str(s.n) for s in results[0].scores)
    lines += ["", f"Test split, n = {n}; 95 % bootstrap intervals in brackets."]
    return "\n".join(lines)


def print_table(results: Sequence[Result], console: Console) -> None:
    """Print the final table and the next commands."""
    title = "Test split: macro-F1 (95 % bootstrap interval)"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)  # fits 80 columns
    table.add_column("model", overflow="fold")
    for s in results[0].scores:
        table.add_column(f"{s.task}\nn = {s.n}", no_wrap=True)
    for column in ("docs/s", "MB", "min"):
        table.add_column(column, justify="right", no_wrap=True)
    for r in results:
        cells = [f"{s.macro_f1:.3f}\n{s.interval[0]:.3f}–{s.interval[1]:.3f}" for s in r.scores]
        speed, size, minutes = f"{r.docs_per_second:.0f}", f"{r.megabytes:.0f}", f"{r.minutes:.1f}"
        table.add_row(r.name, *cells, speed, size, minutes)
    console.print(table)
    best = next((r for r in results if r.kind == "camembert"), results[-1])
    console.print(
        "Next: [bold]make ui[/] compares the runs; "
        f"[bold]presseco predict --model {best.folder.name and DIST[best.kind]} "
        "--input a.jsonl --output b.jsonl[/] classifies your articles.",
        soft_wrap=True,
    )


def _params(config: Config, data: Data) -> dict[str, Any]:
    """Return what every run has, then what differs from the base, as far as there is room."""
    fixed = {
        "kind": config.kind,
        "seed": config.seed,
        "corpus_digest": data.corpus.digest,
        "train_articles": len(data.train.ids),
        "taxonomy_version": data.corpus.taxonomy.version,
        "git_commit": tracking.git_commit(config.root),
    }
    if config.kind != "baseline":
        fixed["encoder"] = config.camembert.encoder
    changed = {k: v for k, v in differences(config).items() if k.split(".")[0] != "tracking"}
    # Fitting adds one value a task at its end (the strength chosen for it).
    room = MAX_PARAMS - len(fixed) - len(data.task_map)
    return fixed | dict(list(changed.items())[:room])


def _log(
    result: Result, fitted: Fitted, data: Data, calibration: dict[str, Any], config: Config
) -> None:
    mlflow.log_params(fitted.params)
    mlflow.log_metrics(fitted.metrics)
    mlflow.log_metrics({"docs_per_second": result.docs_per_second, "megabytes": result.megabytes})
    mlflow.log_metric("minutes", result.minutes)
    for s in result.scores:
        mlflow.log_metrics(s.metrics("test"))
        mlflow.log_table(
            {k: [row[k] for row in s.per_class] for k in s.per_class[0]}, f"per_class_{s.task}.json"
        )
        mlflow.log_figure(confusion_figure(s, result.name), f"confusion_{s.task}.png")
    probabilities = split_logits(fitted.logits["test"], data.task_map, calibration["temperatures"])
    names = [name for name, _ in data.task_map]
    mlflow.log_metrics(_abstention(fitted, data, calibration, probabilities))
    figure = reliability_figure(names, probabilities, data.test.labels, result.name)
    mlflow.log_figure(figure, "reliability.png")
    curves = {
        name: risk_coverage(probabilities[name], data.test.labels[:, i])[1:]
        for i, name in enumerate(names)
    }
    mlflow.log_figure(risk_figure(curves, RISK_TARGET, result.name), "risk_coverage.png")
    mlflow.log_dict(calibration, "calibration.json")
    mlflow.log_table(_predictions(data, probabilities), "predictions_test.json")
    mlflow.set_tag("mlflow.note.content", markdown_table([result]))


def _abstention(
    fitted: Fitted, data: Data, calibration: dict[str, Any], probabilities: dict[str, Floats]
) -> dict[str, float]:
    """Return coverage and risk at the thresholds, and how well out-of-domain texts stand apart."""
    metrics: dict[str, float] = {}
    for i, (name, _) in enumerate(data.task_map):
        threshold, truth = calibration["thresholds"][name], data.test.labels[:, i]
        coverage, risk = answered(probabilities[name], truth, threshold)
        metrics |= {f"test.{name}.coverage": coverage, f"test.{name}.risk": risk}
    if "outside_test" in fitted.logits:
        outside = split_logits(
            fitted.logits["outside_test"], data.task_map, calibration["temperatures"]
        )
        metrics["test.outside_auroc"] = outside_auroc(probabilities, outside)
        metrics |= {
            f"test.outside.{name}.abstained": float(
                (outside[name].max(axis=1) < calibration["thresholds"][name]).mean()
            )
            for name, _ in data.task_map
        }
    return metrics


def _predictions(data: Data, probabilities: dict[str, Floats]) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": data.test.ids}
    for i, (name, labels) in enumerate(data.task_map):
        truth = data.test.labels[:, i]
        columns[f"{name}_true"] = [labels[t] if t >= 0 else None for t in truth]
        columns[name] = [labels[j] for j in probabilities[name].argmax(axis=1)]
        columns[f"{name}_probability"] = np.round(probabilities[name].max(axis=1), 4).tolist()
    return columns


def _register(result: Result, data: Data, model: Path) -> None:
    from presseco.registry import log_and_register

    log_and_register(
        result.kind,
        REGISTERED[result.kind],
        model,
        [name for name, _ in data.task_map],
        markdown_table([result]),
    )


def _shipped_megabytes(folder: Path) -> float:
    """Return the size of what a service loads: the smallest model file plus the rest."""
    skip = {"model.onnx"} if (folder / "model.int8.onnx").exists() else set()
    files = [p for p in folder.glob("*") if p.is_file() and p.name not in skip]
    return sum(p.stat().st_size for p in files) / 1e6
