"""The main job: corpus, models, comparison in MLflow, registry, exported bundle, one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import transformers
from rich.console import Console

from presseco import tracking
from presseco.calibration import fit_temperature, fit_threshold
from presseco.card import model_card
from presseco.config import Config
from presseco.corpus import build_corpus
from presseco.evaluate import TaskScore, score_all, split_logits
from presseco.examples import Data, load_data
from presseco.experiments import DEFAULT, read_experiments
from presseco.fit import fit
from presseco.fitted import Fitted
from presseco.points import keep_point, point_key
from presseco.progress import progress
from presseco.record import describe, log_data, log_result, params, shipped_megabytes
from presseco.server import without_secret
from presseco.speed import docs_per_second
from presseco.table import Line, short, terminal
from presseco.taxonomy import slices
from presseco.work import publish, working

#: Each kind's name in the registry (frozen: compared, not shipped).
REGISTERED = {"baseline": "presseco-baseline", "camembert": "presseco"}


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

    @property
    def cost(self) -> dict[str, float]:
        """Return what the model costs, by MLflow's names."""
        speed, size = self.docs_per_second, self.megabytes
        return {"docs_per_second": speed, "megabytes": size, "minutes": self.minutes}

    @property
    def line(self) -> Line:
        """Return the result as a line of the table."""
        metrics = self.cost
        for s in self.scores:
            metrics |= s.metrics("test")
        return Line(self.name, metrics)


def train(experiments: Sequence[str], overrides: Sequence[str] = ()) -> list[Result]:
    """Train every experiment file on one corpus under one parent run; print the table at the end."""
    # Reports of weights that are new on purpose, and bars that last a moment.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console()
    configs = read_experiments(experiments, overrides)
    first = configs[0]
    uri = tracking.record(first.root, first.tracking.experiment)
    corpus, skipped = build_corpus(first)
    state = "unchanged, build skipped" if skipped else "built"
    console.print(f"[bold]corpus[/] {corpus.digest} ({state}): {corpus.sizes}", soft_wrap=True)
    console.print(f"[bold]tracking[/] {without_secret(uri)}", soft_wrap=True)
    data = load_data(corpus)
    results = []
    title = f"train · {short(corpus.sizes['train'])} articles · seed {first.seed}"
    tags = {"purpose": "train", "corpus": corpus.digest}
    with tracking.run(title, tags=tags):
        log_data(data)
        for config in configs:
            results.append(train_one(config, data, console))
        description = describe([r.line for r in results], results[0].scores)
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
    name = f"{config.name} · {short(len(data.train.ids))} articles · seed {config.seed}"
    tags = {"purpose": purpose, "kind": config.kind, "corpus": data.corpus.digest}
    key = point_key(config, data)
    with (
        working(config, key) as work,
        tracking.run(name, nested=True, tags=tags),
        progress(console, config.name) as report,
    ):
        mlflow.log_params(params(config, data))
        log_data(data)
        mlflow.log_text(config.to_yaml(), "config.yaml")
        mlflow.log_dict(tracking.environment(), "environment.yaml")
        fitted = fit(config, data, work, report, lambda m, step: mlflow.log_metrics(m, step=step))
        mlflow.set_tags(fitted.tags)
        # The curve's point at all articles is this training: `make curve` does not repeat it.
        keep_point(config, data, key, fitted, time.monotonic() - started)
        calibration = calibrate(fitted, data)
        scores = evaluate(fitted, data, calibration)
        calibration["lineage"] = lineage(config, data, tracking.run_id())
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
            run_id=tracking.run_id(),
            scores=scores,
            docs_per_second=speed,
            megabytes=shipped_megabytes(model),
            minutes=(time.monotonic() - started) / 60,
            folder=dist(config),
        )
        text = log_result(config.name, scores, result.cost, fitted, data, calibration)
        if register and config.tracking.register_models and config.kind in REGISTERED:
            report("register", 0, 1)
            _register(result, data, model, text)
        if register:
            publish(model, result.folder)
    return result


def dist(config: Config) -> Path:
    """Return where an experiment's saved model goes: its own folder, so that none replaces another.

    `dist/camembert` is the default experiment's.
    """
    return config.path("dist") / ("camembert" if config.name == DEFAULT else config.name)


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


def print_table(results: Sequence[Result], console: Console) -> None:
    """Print the final table and the next commands."""
    sizes = {s.task: s.n for s in results[0].scores}
    console.print(terminal([r.line for r in results], sizes))
    best = next((r for r in reversed(results) if r.kind != "baseline"), None)
    classify = (
        f"; [bold]presseco predict --model dist/{best.folder.name} "
        "--input a.jsonl --output b.jsonl[/] classifies your articles"
        if best  # a baseline's folder is for MLflow and the cascade
        else ""
    )
    console.print(f"Next: [bold]make ui[/] compares the runs{classify}.", soft_wrap=True)


def _register(result: Result, data: Data, model: Path, description: str) -> None:
    from presseco.registry import log_and_register

    tasks = [name for name, _ in data.task_map]
    log_and_register(result.kind, REGISTERED[result.kind], model, tasks, description)
