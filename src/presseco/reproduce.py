"""Rebuild a run from what it logged, and say by how much its metrics differ."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from presseco import tracking
from presseco.config import Config
from presseco.corpus import Corpus, build_corpus
from presseco.errors import NO, ConfigError, StoreError
from presseco.examples import load_data
from presseco.experiments import find_encoders
from presseco.server import reason
from presseco.train import train_one

#: Last words of metrics that measure the machine, not the model; `megabytes` counts the model card,
#: which names its run.
_MACHINE = ("docs_per_second", "minutes", "megabytes", "seconds")
#: First words of metrics that another command adds to a run later.
_LATER = ("robustness",)


@dataclass(frozen=True)
class Origin:
    """What a run logged about itself: name, params, metrics, resolved settings, environment."""

    run_id: str
    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    config: Config
    environment: dict[str, str]


@dataclass(frozen=True)
class Change:
    """One metric before and after; `None` where a run does not have it."""

    metric: str
    old: float | None
    new: float | None

    @property
    def same(self) -> bool:
        """Return whether both runs have the very same value."""
        if self.old is None or self.new is None:
            return False
        return self.old == self.new or (math.isnan(self.old) and math.isnan(self.new))


def read_origin(root: Path, number: str) -> Origin:
    """Return what run `number` of the connected store says about itself.

    Raises `StoreError` when there is no such run or it is no model's, `ConfigError` when its
    settings do not fit this code.
    """
    try:
        run = tracking.find_run(number)
        run_id = run.info.run_id
        config, environment = _yaml(run_id, "config.yaml"), _yaml(run_id, "environment.yaml")
    except (MlflowException, OSError) as e:
        raise StoreError(
            f"run {number}: cannot be read: {reason(e)}. Expected the id of one model's run, with "
            f"config.yaml and environment.yaml among its files.{_children(number)}"
        ) from e
    commit = run.data.params.get("git_commit", "unknown")
    try:
        settings = Config.model_validate({**config, "root": root})
    except ValidationError as e:
        raise ConfigError(
            f"run {run_id}: its settings do not fit this code: {reason(e)}. "
            f"Check out commit {commit} first."
        ) from e
    data = run.data
    return Origin(run_id, run.info.run_name, data.params, data.metrics, settings, environment)


def _yaml(run_id: str, file: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(MlflowClient().download_artifacts(run_id, file, place))
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _children(number: str) -> str:
    """Return a sentence with the runs below a parent run, which may be what was meant."""
    try:
        run = tracking.find_run(number)
        query = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        found = MlflowClient().search_runs([run.info.experiment_id], query)
    except MlflowException:
        return ""
    told = ", ".join(f"{r.info.run_id} ({r.info.run_name})" for r in found)
    return f" Its runs: {told}." if told else ""


def origin_differences(origin: Origin, corpus: Corpus) -> list[str]:
    """Return what is not as it was for the run: commit and packages, one sentence each.

    Raises `ConfigError` when the articles are others: the metrics could not be the same.
    """
    wanted, commit = origin.params["corpus_digest"], origin.params["git_commit"]
    if corpus.digest != wanted:
        raise ConfigError(
            f"run {origin.run_id} was trained on corpus {wanted}; the articles here build "
            f"{corpus.digest}. Check out commit {commit} first."
        )
    out = []
    here = tracking.git_commit(origin.config.root)
    if here != commit:
        out.append(f"code is at commit {here}, the run was at {commit}")
    elif commit.endswith("-dirty"):
        out.append(f"code was changed after commit {commit.removesuffix('-dirty')}: how is unknown")
    now = tracking.environment()
    for key in sorted(now.keys() | origin.environment.keys()):
        if now.get(key) != origin.environment.get(key):
            old = origin.environment.get(key, "not logged")
            out.append(f"{key} is {now.get(key, 'not logged')}, the run had {old}")
    return out


def metric_changes(old: dict[str, float], new: dict[str, float]) -> list[Change]:
    """Return every metric that measures the model, before and after, by name."""
    keys = sorted(
        k
        for k in old.keys() | new.keys()
        if not k.endswith(_MACHINE) and k.split(".")[0] not in _LATER
    )
    return [Change(k, old.get(k), new.get(k)) for k in keys]


def reproduce(config: Config, number: str, console: Console) -> list[Change]:
    """Train run `number` again and return its metrics before and after.

    `config` says which project and which tracking experiment; the settings are the run's own.
    """
    tracking.connect(config.root, config.tracking.experiment)
    origin = read_origin(config.root, number)
    find_encoders([origin.config])
    corpus, _ = build_corpus(origin.config)
    for sentence in origin_differences(origin, corpus):
        console.print(f"[yellow]{sentence}[/]", soft_wrap=True)
    tracking.record(config.root, config.tracking.experiment)
    tags = {"purpose": "reproduce", "reproduces": origin.run_id, "corpus": corpus.digest}
    with tracking.run(f"reproduce · {origin.name}", tags=tags) as parent:
        train_one(origin.config, load_data(corpus), console, purpose="reproduce", register=False)
        changes = metric_changes(origin.metrics, _metrics_below(parent))
        moved = [c.metric for c in changes if not c.same]
        mlflow.log_metrics({"metrics_compared": len(changes), "metrics_changed": len(moved)})
        mlflow.set_tag("mlflow.note.content", _verdict(origin, changes))
    return changes


def _metrics_below(parent: Any) -> dict[str, float]:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    [child] = MlflowClient().search_runs([parent.info.experiment_id], query)
    return dict(child.data.metrics)


def _verdict(origin: Origin, changes: list[Change]) -> str:
    moved = sum(not c.same for c in changes)
    return f"{moved} of {len(changes)} metrics differ from run {origin.run_id} ({origin.name})"


def print_changes(changes: list[Change], console: Console) -> None:
    """Print every metric before and after, the changed ones in bold."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", overflow="fold")
    for column in ("then", "now", "difference"):
        table.add_column(column, justify="right")
    for c in changes:
        old, new = ("none" if v is None else f"{v:.6f}" for v in (c.old, c.new))
        delta = "" if c.old is None or c.new is None else f"{c.new - c.old:+.6f}"
        table.add_row(c.metric, old, new, "0" if c.same else delta, style="" if c.same else "bold")
    console.print(table)


def run_reproduce(config: Config, number: str) -> int:
    """Print the metrics before and after; return 0 when none differs, else `NO`."""
    console = Console()
    changes = reproduce(config, number, console)
    print_changes(changes, console)
    moved = sum(not c.same for c in changes)
    console.print(f"{moved} of {len(changes)} metrics differ from run {number}")
    return NO if moved or not changes else 0
