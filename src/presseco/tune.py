"""Search for better settings with Optuna: pruned trials as child runs, the best as an experiment."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import optuna
import transformers
import yaml
from filelock import FileLock, Timeout
from rich.console import Console

from presseco import tracking
from presseco.config import Config, differences, read_config
from presseco.corpus import build_corpus
from presseco.encoder import locate
from presseco.errors import ConfigError, StoreError
from presseco.evaluate import mean_macro_f1
from presseco.examples import Data, load_data
from presseco.experiments import read_experiments
from presseco.files import write_text
from presseco.fit import fit
from presseco.points import forget_encoded, point_key, without_test
from presseco.progress import progress
from presseco.work import work_folder, working

#: Most layers that a search freezes; an encoder with fewer keeps one to train.
_MOST_FROZEN = 4


def space(trial: optuna.trial.BaseTrial, kind: str, layers: int) -> dict[str, Any]:
    """Return one trial's settings for a kind of model, as `section.key: value`, 3 digits each.

    Ranges: a factor of 3 around what published fine-tunings of encoders this size use. `layers` is
    the encoder's number of layers.
    """

    def number(name: str, low: float, high: float, log: bool = False) -> float:
        return float(f"{trial.suggest_float(name, low, high, log=log):.3g}")

    if kind != "camembert":
        low, high = (0.5, 64.0) if kind == "baseline" else (0.003, 3.0)
        return {f"{kind}.c_grid": [number("c", low, high, log=True)]}
    return {
        "camembert.learning_rate": number("learning_rate", 5e-5, 6e-4, log=True),
        "camembert.head_learning_rate": number("head_rate", 1e-4, 3e-3, log=True),
        "camembert.layer_decay": number("layer_decay", 0.6, 1.0),
        "camembert.frozen_layers": trial.suggest_int(
            "frozen_layers", 0, min(_MOST_FROZEN, layers - 1)
        ),
        "camembert.token_dropout": number("token_dropout", 0.0, 0.4),
        "camembert.label_smoothing": number("label_smoothing", 0.0, 0.2),
        "camembert.class_balance": number("class_balance", 0.0, 1.0),
    }


def tune(experiment: str, overrides: Sequence[str], trials: int) -> Path:
    """Run `trials` more trials of the study of this experiment and corpus; return the best's file.

    The study lives in build/tune.db: a stopped search goes on, with the trial that was cut off
    first. The score is the mean macro-F1 on validation; the test split is never looked at.
    """
    [config] = read_experiments([experiment], overrides)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tracking.record(config.root, config.tracking.experiment)
    corpus, _ = build_corpus(config)
    data = without_test(load_data(corpus))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (config.root / "build").mkdir(exist_ok=True)
    console = Console()
    with _alone(config):
        study = _study(config, corpus.digest)
        _again(study, console)
        tags = {"purpose": "tune", "corpus": corpus.digest}
        with tracking.run(f"tune · {config.name} · {trials} trials", tags=tags):
            mlflow.log_params({"study": study.study_name, "seed": config.seed})
            study.optimize(
                lambda trial: _trial(trial, experiment, overrides, data, console), n_trials=trials
            )
            path = _write_best(experiment, overrides, study)
            mlflow.log_metric("best.validation.macro_f1", study.best_value)
            mlflow.log_artifact(str(path))
    return path


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Hold the study file: only so is a RUNNING trial surely one that was killed."""
    lock = FileLock(config.path("build/tune.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"{lock.lock_file}: another process searches in this folder. Wait for it, or search in "
            "a copy of the project."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _study(config: Config, digest: str) -> optuna.Study:
    """Open the study of these settings and this corpus; others are never mixed with it."""
    sections = {"kind", "seed", "baseline", "frozen", "camembert"}
    if config.distil:  # without, searches keep the names that they have
        sections |= {"distil"}
    settings = config.model_dump_json(include=sections)
    key = hashlib.sha256(json.dumps([settings, digest]).encode()).hexdigest()[:8]
    study = optuna.create_study(
        study_name=f"{config.name}-{key}",
        storage=f"sqlite:///{config.path('build/tune.db')}",
        direction="maximize",
        load_if_exists=True,
        # The first epoch says little: nothing is judged before step (that is, epoch) 2.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    # With the same seed a search that goes on would draw the trials again that it began with.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + 1000 * len(study.trials))
    return study


def _again(study: optuna.Study, console: Console) -> None:
    """Queue the trials that a killed search left behind; their checkpoints are used."""
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
        console.print(f"trial {trial.number} was cut off and goes on as a new one")


def _trial(
    trial: optuna.Trial, experiment: str, overrides: Sequence[str], data: Data, console: Console
) -> float:
    base = read_config(experiment, overrides)
    chosen = space(trial, base.kind, _layers(base))
    config = read_config(experiment, [*overrides, *(f"{k}={v}" for k, v in chosen.items())])
    forget_encoded(data, config)
    name = f"trial {trial.number} · {config.name}"
    with tracking.run(name, nested=True, tags={"purpose": "tune"}):
        mlflow.log_params(chosen)
        score = _score(trial, config, data, name, console)
    if score is None:
        console.print(f"{name}: pruned, worse than the median of the trials so far", markup=False)
        raise optuna.TrialPruned
    console.print(f"{name}: {score:.4f} (best so far {_best(trial.study, score):.4f})")
    return score


def _score(
    trial: optuna.Trial, config: Config, data: Data, name: str, console: Console
) -> float | None:
    """Return a trial's score, or None if it was pruned: a decision, so its run ends well."""

    def on_metrics(metrics: dict[str, float], step: int) -> None:
        mlflow.log_metrics(metrics, step=step)
        trial.report(metrics["validation.macro_f1"], step)
        if trial.should_prune():
            raise optuna.TrialPruned

    key = point_key(config, data)
    try:
        with (
            progress(console, name) as report,
            working(config, key) as work,
        ):
            fitted = fit(config, data, work, report, on_metrics)
    except optuna.TrialPruned:
        mlflow.set_tag("pruned", "true")
        # Its checkpoints are no use.
        shutil.rmtree(work_folder(config, key), ignore_errors=True)
        return None
    score = mean_macro_f1(data.task_map, fitted.logits["validation"], data.validation.labels)
    mlflow.log_metric("best.validation.macro_f1", score)
    return score


def _layers(config: Config) -> int:
    if config.kind == "baseline":
        return 0
    folder = locate(config.camembert.encoder, config.root)
    return int(json.loads((folder / "config.json").read_text("utf-8"))["num_hidden_layers"])


def _best(study: optuna.Study, score: float) -> float:
    done = [t.value for t in study.trials if t.value is not None]
    return max([*done, score])


def _write_best(experiment: str, overrides: Sequence[str], study: optuna.Study) -> Path:
    """Write the best trial as an experiment file that `make train` takes.

    It holds all that differs from the base: the experiment's own settings, the overrides of this
    search, and the best trial's.
    """
    config = read_config(experiment, overrides)
    finished = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if not finished:
        raise ConfigError(
            f"{study.study_name}: none of {len(study.trials)} trials came to its end; run more"
        )
    fixed = optuna.trial.FixedTrial(study.best_params)
    best = space(fixed, config.kind, _layers(config))
    chosen = read_config(experiment, [*overrides, *(f"{k}={v}" for k, v in best.items())])
    sections: dict[str, Any] = {"name": f"{config.name}-tuned", "kind": config.kind}
    for key, value in differences(chosen).items():
        section, _, name = key.partition(".")
        if name:
            sections.setdefault(section, {})[name] = value
        else:
            sections[section] = value
    path = config.path(f"configs/experiment/{config.name}-tuned.yaml")
    head = (
        f"# Best of {len(study.trials)} trials ({len(finished)} to the end) of `make tune`, study "
        f"{study.study_name}:\n# validation macro-F1 {study.best_value:.4f}, mean of the tasks.\n"
    )
    write_text(path, head + yaml.safe_dump(sections, sort_keys=False, allow_unicode=True))
    return path
