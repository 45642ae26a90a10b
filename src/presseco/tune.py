"""Search for better settings with Optuna: pruned trials as child runs, the best as an experiment."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import optuna
import yaml
from rich.console import Console

from presseco import tracking
from presseco.config import Config, read_config
from presseco.corpus import build_corpus
from presseco.evaluate import mean_macro_f1
from presseco.files import write_text
from presseco.fit import Data, fit, load_data
from presseco.work import work_folder, working


def space(trial: optuna.Trial, kind: str) -> dict[str, Any]:
    """Return one trial's settings for a kind of model, as `section.key: value`.

    Ranges: a factor of 3 around what published fine-tunings of encoders this size use.
    """
    if kind != "camembert":
        low, high = (0.5, 64.0) if kind == "baseline" else (0.003, 3.0)
        return {f"{kind}.c_grid": [trial.suggest_float("c", low, high, log=True)]}
    return {
        "camembert.learning_rate": trial.suggest_float("learning_rate", 5e-5, 6e-4, log=True),
        "camembert.head_learning_rate": trial.suggest_float("head_rate", 1e-4, 3e-3, log=True),
        "camembert.layer_decay": trial.suggest_float("layer_decay", 0.6, 1.0),
        "camembert.frozen_layers": trial.suggest_int("frozen_layers", 1, 4),
        "camembert.token_dropout": trial.suggest_float("token_dropout", 0.0, 0.4),
        "camembert.label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
        "camembert.class_balance": trial.suggest_float("class_balance", 0.0, 1.0),
    }


def tune(experiment: str, overrides: Sequence[str], trials: int) -> Path:
    """Run `trials` more trials of the study of this experiment and corpus; return the best's file.

    The study lives in build/tune.db: a stopped search goes on. The score is the mean macro-F1 on
    validation; the test split is never looked at.
    """
    config = read_config(experiment, overrides)
    tracking.connect(config.root, config.tracking.experiment)
    corpus, _ = build_corpus(config)
    data = load_data(corpus)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (config.root / "build").mkdir(exist_ok=True)
    study = optuna.create_study(
        study_name=f"{config.name}-{corpus.digest}",
        storage=f"sqlite:///{config.path('build/tune.db')}",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=config.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    console = Console()
    tags = {"purpose": "tune", "corpus": corpus.digest}
    with tracking.run(f"tune · {config.name} · {trials} trials", tags=tags):
        study.optimize(
            lambda trial: _trial(trial, experiment, overrides, data, console), n_trials=trials
        )
        mlflow.log_metric("validation.macro_f1", study.best_value)
    return _write_best(config, study)


def _trial(
    trial: optuna.Trial, experiment: str, overrides: Sequence[str], data: Data, console: Console
) -> float:
    base = read_config(experiment, overrides)
    chosen = space(trial, base.kind)
    config = read_config(experiment, [*overrides, *(f"{k}={v}" for k, v in chosen.items())])
    name = f"trial {trial.number} · {config.name}"
    pruned: optuna.TrialPruned | None = None
    score = float("nan")
    with tracking.run(name, nested=True, tags={"purpose": "tune"}):
        mlflow.log_params(chosen)

        def on_metrics(metrics: dict[str, float], step: int) -> None:
            mlflow.log_metrics(metrics, step=step)
            trial.report(metrics["validation.macro_f1"], step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"worse than the median of trials at epoch {step}")

        try:
            with working(config, data.corpus.digest) as work:
                fitted = fit(config, data, work, lambda *_: None, on_metrics)
            guess = fitted.logits["validation"]
            score = mean_macro_f1(data.task_map, guess, data.validation.labels)
            mlflow.log_metric("validation.macro_f1", score)
        except optuna.TrialPruned as e:
            # Pruning is a decision, not an error: the run ends well, its checkpoints are no use.
            mlflow.set_tag("pruned", "true")
            shutil.rmtree(work_folder(config, data.corpus.digest), ignore_errors=True)
            pruned = e
    if pruned:
        raise pruned
    console.print(f"{name}: {score:.4f} (best so far {_best(trial.study, score):.4f})")
    return score


def _best(study: optuna.Study, score: float) -> float:
    done = [t.value for t in study.trials if t.value is not None]
    return max([*done, score])


def _write_best(config: Config, study: optuna.Study) -> Path:
    """Write the best trial as an experiment file that `make train` takes."""
    fixed = optuna.trial.FixedTrial(study.best_params)
    sections: dict[str, Any] = {"name": f"{config.name}-tuned", "kind": config.kind}
    for key, value in space(fixed, config.kind).items():  # type: ignore[arg-type]
        section, _, name = key.partition(".")
        rounded = float(f"{value:.3g}") if isinstance(value, float) else value
        sections.setdefault(section, {})[name] = rounded
    path = config.path(f"configs/experiment/{config.name}-tuned.yaml")
    head = (
        f"# Best of {len(study.trials)} trials of `make tune` ({study.study_name}): "
        f"validation macro-F1 {study.best_value:.4f}.\n"
    )
    write_text(path, head + yaml.safe_dump(sections, sort_keys=False))
    return path
