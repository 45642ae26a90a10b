"""What a run holds for the one who reads it: settings, data, scores, pictures, answers, report."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient

from presseco import tracking
from presseco.calibration import RISK_TARGET, answered, outside_auroc, risk_coverage
from presseco.config import Config, differences
from presseco.evaluate import Floats, TaskScore, split_logits
from presseco.examples import Data, Examples
from presseco.figures import confusion_figure, f1_figure, reliability_figure, risk_figure
from presseco.fitted import Fitted
from presseco.report import run_page
from presseco.runs import PREDICTIONS, run_of
from presseco.table import HUMAN, Line, markdown

#: MLflow's compare view is hard to read with more params than this; config.yaml has them all.
MAX_PARAMS = 25
#: Characters of an article that the table of answers quotes: enough to know it again.
EXCERPT = 160
#: The settings that a kind of model reads.
_SECTIONS = {
    "baseline": ("baseline",),
    "frozen": ("frozen", "camembert.max_tokens"),
    "camembert": ("camembert",),
}


def params(config: Config, data: Data) -> dict[str, Any]:
    """Return what every run has, what differs from the base, then the kind's other settings."""
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
    changed = {
        k: v
        for k, v in differences(config).items()
        if k.split(".")[0] != "tracking" and k.split(".")[-1] not in fixed
    }
    own = config.model_dump(mode="json", include={"baseline", "frozen", "camembert"})
    rest = {f"{s}.{k}": v for s, values in own.items() for k, v in values.items()}
    rest = {
        k: v
        for k, v in rest.items()
        if k.startswith(_SECTIONS[config.kind]) and k.split(".")[1] not in fixed
    }
    # Fitting adds one value a task at its end (the strength chosen for it).
    room = MAX_PARAMS - len(fixed) - len(data.task_map)
    return fixed | dict(list((changed | rest).items())[:room])


def log_data(data: Data) -> None:
    """Log the three splits as MLflow datasets: name, digest, number of texts, labels.

    The digest covers ids, texts and labels, so that two runs show whether a split changed.
    """
    for split, use in (("train", "training"), ("validation", "validation"), ("test", "testing")):
        examples: Examples = getattr(data, split)
        columns: dict[str, Any] = {"id": examples.ids}
        for i, (task, labels) in enumerate(data.task_map):
            columns[task] = [labels[y] if y >= 0 else None for y in examples.labels[:, i]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a path "can be interpreted" as a path
            dataset = mlflow.data.from_pandas(
                pd.DataFrame(columns).astype("string"),
                source=str(data.corpus.folder / f"{split}.parquet"),
                name=f"{split} · {len(examples.ids)} articles",
                digest=split_digest(examples),
            )
        mlflow.log_input(dataset, context=use, tags={"corpus": data.corpus.digest})


def split_digest(examples: Examples) -> str:
    """Return 8 hexadecimal digits that change with any id, text or label of a split."""
    seen = hashlib.sha256()
    for name, text, labels in zip(examples.ids, examples.texts, examples.labels, strict=True):
        seen.update(f"{name}\0{text}\0{labels.tolist()}\n".encode("utf-8", "surrogatepass"))
    return seen.hexdigest()[:8]


def log_result(
    name: str,
    scores: list[TaskScore],
    cost: dict[str, float],
    fitted: Fitted,
    data: Data,
    calibration: dict[str, Any],
) -> str:
    """Log everything that a fitted model is judged by to the active run; return its description."""
    mlflow.log_params(fitted.params)
    probabilities = split_logits(fitted.logits["test"], data.task_map, calibration["temperatures"])
    metrics = fitted.metrics | cost | abstention(fitted, data, calibration, probabilities)
    for s in scores:
        metrics |= s.metrics("test")
    # One number to sort the table by; what tuning maximises on validation.
    metrics["test.macro_f1"] = float(np.mean([s.macro_f1 for s in scores]))
    mlflow.log_metrics(metrics)
    mlflow.log_dict(calibration, "calibration.json")
    answers = predictions(data, probabilities)
    mlflow.log_table(answers, PREDICTIONS)
    _log_pictures(name, scores, data, probabilities)
    text = describe([Line(name, metrics)], scores)
    mlflow.set_tag("mlflow.note.content", text)
    _log_report(answers)
    return text


def describe(lines: list[Line], scores: list[TaskScore]) -> str:
    """Return a run's description: the result table, and how to read it."""
    n = ", ".join(f"{s.task} {s.n}" for s in scores)
    human = ", ".join(f"{s.task} {HUMAN[s.task]:.2f}" for s in scores if s.task in HUMAN)
    orientation = f" Two annotators of real press agree to κ = {human}." if human else ""
    return (
        f"{markdown(lines)}\n\nTest split ({n} articles), 95 % bootstrap intervals in brackets."
        f"{orientation} More in the artifact `report.html`."
    )


def _log_pictures(
    name: str, scores: list[TaskScore], data: Data, probabilities: dict[str, Floats]
) -> None:
    for s in scores:
        table = {k: [row[k] for row in s.per_class] for k in s.per_class[0]}
        mlflow.log_table(table, f"per_class_{s.task}.json")
        mlflow.log_figure(confusion_figure(s, name), f"confusion_{s.task}.png")
    names = [task for task, _ in data.task_map]
    mlflow.log_figure(f1_figure(scores, name), "f1_by_label.png")
    figure = reliability_figure(names, probabilities, data.test.labels, name)
    mlflow.log_figure(figure, "reliability.png")
    curves = {
        task: risk_coverage(probabilities[task], data.test.labels[:, i])[1:]
        for i, task in enumerate(names)
    }
    mlflow.log_figure(risk_figure(curves, RISK_TARGET, name), "risk_coverage.png")


def _log_report(answers: dict[str, Any]) -> None:
    client = MlflowClient()
    found = client.get_run(mlflow.active_run().info.run_id)
    run = run_of(
        tracking.run_id(),
        found.info.run_name,
        answers,
        found.data.metrics,
        found.data.params,
        found.data.tags,
    )
    history = {
        key: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, key)]
        for key in ("train.loss", "validation.macro_f1")
        if key in found.data.metrics
    }
    mlflow.log_text(run_page(run, history), "report.html")


def abstention(
    fitted: Fitted, data: Data, calibration: dict[str, Any], probabilities: dict[str, Floats]
) -> dict[str, float]:
    """Return coverage and risk at the thresholds, and how well out-of-domain texts stand apart."""
    metrics: dict[str, float] = {}
    for i, (name, _) in enumerate(data.task_map):
        threshold, truth = calibration["thresholds"][name], data.test.labels[:, i]
        coverage, risk = answered(probabilities[name], truth, threshold)
        metrics[f"test.{name}.coverage"] = coverage
        if coverage:  # of no answer at all, none is wrong and none is right
            metrics[f"test.{name}.risk"] = risk
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


def predictions(data: Data, probabilities: dict[str, Floats]) -> dict[str, Any]:
    """Return the columns of the table of answers: id, beginning of the text, and three a task."""
    columns: dict[str, Any] = {
        "id": data.test.ids,
        "text": [excerpt(t) for t in data.test.texts],
    }
    for i, (name, labels) in enumerate(data.task_map):
        truth = data.test.labels[:, i]
        columns[f"{name}_true"] = [labels[t] if t >= 0 else None for t in truth]
        columns[name] = [labels[j] for j in probabilities[name].argmax(axis=1)]
        columns[f"{name}_probability"] = np.round(probabilities[name].max(axis=1), 4).tolist()
    return columns


def excerpt(text: str) -> str:
    """Return the beginning of a text on one line, cut between words."""
    flat = " ".join(text[: 2 * EXCERPT].split())
    return flat if len(flat) <= EXCERPT else flat[: EXCERPT + 1].rsplit(" ", 1)[0] + " …"


def shipped_megabytes(folder: Path) -> float:
    """Return the size of what a service loads: the smallest model file plus the rest."""
    skip = {"model.onnx"} if (folder / "model.int8.onnx").exists() else set()
    files = [p for p in folder.glob("*") if p.is_file() and p.name not in skip]
    return sum(p.stat().st_size for p in files) / 1e6
