"""A finished run, read back: its answers on the test split, its metrics, what it was trained with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from presseco import tracking
from presseco.errors import StoreError
from presseco.evaluate import Floats, Ints, TaskScore, score_task

#: The table of answers that every run logs, and the columns that are no task's.
PREDICTIONS = "predictions_test.json"
_NO_TASK = ("id", "text")
_PARENT = "mlflow.parentRunId"
#: Runs asked for at a time: reading hundreds with their metrics costs seconds.
_PAGE = 20


@dataclass(frozen=True)
class Run:
    """One run's answers on the test split, as label names, with its metrics and params.

    `confidence` is the calibrated probability of the answer; `texts` the beginning of each article.
    Runs of older versions may lack both.
    """

    id: str
    name: str
    corpus: str
    ids: list[str]
    truth: dict[str, list[str | None]]
    guess: dict[str, list[str]]
    metrics: dict[str, float]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    confidence: dict[str, list[float]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    @property
    def model(self) -> str:
        """Return the experiment's name, without size and seed."""
        return self.name.split(" · ")[0]

    def labels(self, task: str) -> list[str]:
        """Return the labels that occur in truth or answers, sorted."""
        return sorted({t for t in self.truth[task] if t} | set(self.guess[task]))

    def answers(self, task: str) -> tuple[list[str], Floats, Ints]:
        """Return the labels, a probability matrix and the truth, of the texts with a known label.

        A row holds the confidence in the answer and zeros: enough for all but the other labels'
        own probabilities. Without logged confidence it is 1.
        """
        labels = self.labels(task)
        place = {label: i for i, label in enumerate(labels)}
        rows = [i for i, t in enumerate(self.truth[task]) if t is not None]
        truth = np.array([place[str(self.truth[task][i])] for i in rows], dtype=np.int64)
        guess = np.array([place[self.guess[task][i]] for i in rows], dtype=np.int64)
        given = self.confidence.get(task) or [1.0] * len(self.ids)
        p = np.zeros((len(rows), len(labels)))
        p[np.arange(len(rows)), guess] = [given[i] for i in rows]
        return labels, p, truth

    def score(self, task: str) -> TaskScore:
        """Return the scores of one task, computed from the answers."""
        labels, p, truth = self.answers(task)
        return score_task(task, labels, p, truth)


@dataclass(frozen=True)
class Row:
    """One model's finished run: its metrics, params and 95 % intervals by task."""

    name: str
    run_id: str
    metrics: dict[str, float]
    params: dict[str, str]


def run_of(
    run_id: str,
    name: str,
    columns: Mapping[str, list[Any]],
    metrics: Mapping[str, float],
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> Run:
    """Return a run from the columns of its table of answers and what else it logged."""
    tasks = [c.removesuffix("_true") for c in columns if c.endswith("_true") and c not in _NO_TASK]
    return Run(
        id=run_id,
        name=name,
        corpus=str(params.get("corpus_digest", "unknown")),
        ids=columns["id"],
        truth={t: columns[f"{t}_true"] for t in tasks},
        guess={t: columns[t] for t in tasks},
        metrics=dict(metrics),
        params={k: str(v) for k, v in params.items()},
        tags=dict(tags),
        confidence={t: columns[f"{t}_probability"] for t in tasks if f"{t}_probability" in columns},
        texts=columns.get("text", []),
    )


def read_run(name: str, experiment: str) -> Run:
    """Return a run by id, by `models:/name@alias`, or by the newest training with this name."""
    client = MlflowClient()
    try:
        run = tracking.find_run(_run_id(name, experiment, client))
        with tempfile.TemporaryDirectory() as place:
            path = client.download_artifacts(run.info.run_id, PREDICTIONS, place)
            table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (MlflowException, OSError) as e:
        reason = str(e).splitlines()[0]
        raise StoreError(f"run {name!r}: no test predictions can be read: {reason}") from e
    columns = {c: [row[j] for row in table["data"]] for j, c in enumerate(table["columns"])}
    data = run.data
    return run_of(run.info.run_id, run.info.run_name, columns, data.metrics, data.params, data.tags)


def last_training(root: Path, experiment: str = "presseco") -> tuple[Any, list[Row]]:
    """Return the last finished `make train` parent run and its children, in training order."""
    tracking.connect(root, experiment)
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    query = "attributes.status = 'FINISHED' AND tags.purpose = 'train'"
    runs: list[Any] = []
    token: str | None = ""
    # Children start after their parent: newest first, page by page, they are there when it is found.
    while token is not None and all(_PARENT in r.data.tags for r in runs):
        page = client.search_runs(
            [found.experiment_id],
            query,
            max_results=_PAGE,
            order_by=["start_time DESC"],
            page_token=token or None,
        )
        runs, token = [*runs, *page], page.token
    parent = next((r for r in runs if _PARENT not in r.data.tags), None)
    if parent is None:
        raise StoreError("no finished training in the store; run `make train` first")
    rows = [
        Row(
            r.info.run_name.split(" · ")[0],
            r.info.run_id,
            dict(r.data.metrics),
            dict(r.data.params),
        )
        for r in reversed(runs)
        if r.data.tags.get(_PARENT) == parent.info.run_id
    ]
    return parent, rows


def _run_id(name: str, experiment: str, client: MlflowClient) -> str:
    if name.startswith("models:/"):
        model, _, alias = name.removeprefix("models:/").partition("@")
        if alias:
            return str(client.get_model_version_by_alias(model, alias).run_id)
        model, _, version = model.partition("/")
        return str(client.get_model_version(model, version).run_id)
    found = client.get_experiment_by_name(experiment)
    query = "attributes.status = 'FINISHED' AND tags.purpose = 'train'"
    if (
        "'" not in name
    ):  # asked of the store: reading hundreds of runs with their metrics costs seconds
        query += f" AND attributes.run_name LIKE '{name}%'"
    runs = client.search_runs(
        [found.experiment_id], query, max_results=50, order_by=["start_time DESC"]
    )
    for run in runs:
        # A name is whole, or whole up to a separator: `camembert-mini` is not `camembert-mini-tuned`.
        if f"{run.info.run_name} · ".startswith(f"{name} · "):
            return str(run.info.run_id)
    return name
