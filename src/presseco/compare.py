"""Compare two runs on the same test texts: `make compare A=… B=…`; table, HTML report, exit code."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.table import Table

from presseco import tracking
from presseco.errors import StoreError
from presseco.evaluate import Ints
from presseco.files import write_text
from presseco.results import HUMAN, last_training
from presseco.significance import Difference, compare_guesses

#: Metrics that the report puts side by side, in this order, where both runs have them.
_COST = ("docs_per_second", "megabytes", "minutes")


@dataclass(frozen=True)
class Run:
    """One run's predictions on the test split, as label names, and its metrics."""

    id: str
    name: str
    corpus: str
    ids: list[str]
    truth: dict[str, list[str | None]]
    guess: dict[str, list[str]]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Two runs on the texts that both predicted: differences by task, and what changed."""

    a: Run
    b: Run
    differences: list[Difference]
    per_class: list[dict[str, Any]]
    flipped: list[dict[str, str]]

    @property
    def worse(self) -> bool:
        """Return whether B is clearly worse on a task: what a CI job fails on."""
        return any(d.verdict == "worse" for d in self.differences)


def compare(root: Path, a: str | None, b: str | None, experiment: str = "presseco") -> Comparison:
    """Compare run B with run A; without names, the last training's baseline and CamemBERT."""
    tracking.connect(root, experiment)
    if a is None or b is None:
        _, rows = last_training(root, experiment)
        by_kind = {r.params.get("kind"): r.run_id for r in rows}
        a = a or by_kind.get("baseline") or rows[0].run_id
        b = b or by_kind.get("camembert") or rows[-1].run_id
    return compare_runs(read_run(a, experiment), read_run(b, experiment))


def compare_runs(a: Run, b: Run) -> Comparison:
    """Compare two loaded runs on their common texts; refuse runs whose truth differs."""
    if a.id == b.id:
        raise StoreError(f"A and B are one run, {a.name} ({a.id}); name another with A=… or B=…")
    common = [i for i in a.ids if i in set(b.ids)]
    if not common:
        raise StoreError(
            f"{a.name} and {b.name} have no test text in common (corpora {a.corpus} and {b.corpus}). "
            "Train both on one corpus."
        )
    at, bt = ({i: n for n, i in enumerate(r.ids)} for r in (a, b))
    left, right = [at[i] for i in common], [bt[i] for i in common]
    differences, per_class, flipped = [], [], []
    for task in a.truth:
        truth = [a.truth[task][i] for i in left]
        if truth != [b.truth[task][i] for i in right]:
            raise StoreError(f"{task}: the two runs were scored against different labels")
        ga, gb = [a.guess[task][i] for i in left], [b.guess[task][i] for i in right]
        labels = sorted({t for t in truth if t} | set(ga) | set(gb))
        known = [i for i, t in enumerate(truth) if t is not None]
        t, x, y = (_numbers([s[i] for i in known], labels) for s in (truth, ga, gb))
        differences.append(compare_guesses(task, t, x, y, len(labels)))
        per_class += _class_changes(task, labels, t, x, y)
        for i in known:
            if ga[i] != gb[i] and truth[i] in (ga[i], gb[i]):
                row = {
                    "id": common[i],
                    "task": task,
                    "truth": str(truth[i]),
                    "a": ga[i],
                    "b": gb[i],
                }
                flipped.append(row | {"change": "won" if gb[i] == truth[i] else "lost"})
    return Comparison(a, b, differences, per_class, flipped)


def read_run(name: str, experiment: str) -> Run:
    """Return a run by id, by `models:/name@alias`, or by the newest run with this name."""
    client = MlflowClient()
    try:
        run = client.get_run(_run_id(name, experiment, client))
        with tempfile.TemporaryDirectory() as place:
            path = client.download_artifacts(run.info.run_id, "predictions_test.json", place)
            table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (MlflowException, OSError) as e:
        reason = str(e).splitlines()[0]
        raise StoreError(f"run {name!r}: no test predictions can be read: {reason}") from e
    columns = {c: [row[j] for row in table["data"]] for j, c in enumerate(table["columns"])}
    tasks = [c.removesuffix("_true") for c in columns if c.endswith("_true")]
    return Run(
        id=run.info.run_id,
        name=run.info.run_name,
        corpus=run.data.params.get("corpus_digest", "unknown"),
        ids=columns["id"],
        truth={t: columns[f"{t}_true"] for t in tasks},
        guess={t: columns[t] for t in tasks},
        metrics=dict(run.data.metrics),
    )


def _run_id(name: str, experiment: str, client: MlflowClient) -> str:
    if name.startswith("models:/"):
        model, _, alias = name.removeprefix("models:/").partition("@")
        if alias:
            return str(client.get_model_version_by_alias(model, alias).run_id)
        model, _, version = model.partition("/")
        return str(client.get_model_version(model, version).run_id)
    found = client.get_experiment_by_name(experiment)
    query = "attributes.status = 'FINISHED' AND tags.purpose = 'train'"
    runs = client.search_runs([found.experiment_id], query, order_by=["start_time DESC"])
    for run in runs:
        # A name is whole, or whole up to a separator: `camembert-mini` is not `camembert-mini-tuned`.
        if f"{run.info.run_name} · ".startswith(f"{name} · "):
            return str(run.info.run_id)
    return name


def _numbers(values: list[Any], labels: list[str]) -> Ints:
    place = {label: i for i, label in enumerate(labels)}
    return np.array([place[v] for v in values], dtype=np.int64)


def _class_changes(
    task: str, labels: list[str], truth: Ints, a: Ints, b: Ints
) -> list[dict[str, Any]]:
    rows = []
    for i, label in enumerate(labels):
        f1 = [
            2
            * float(((g == i) & (truth == i)).sum())
            / max(1.0, float((g == i).sum() + (truth == i).sum()))
            for g in (a, b)
        ]
        n = int((truth == i).sum())
        rows.append({"task": task, "label": label, "n": n, "a": f1[0], "b": f1[1]})
    return rows


def print_comparison(c: Comparison, console: Console) -> None:
    """Print the differences as a table, and the verdict."""
    table = Table(title=f"B: {c.b.name}\nA: {c.a.name}")
    for column in ("task", "n", "A", "B", "B - A (95 %)", "p", "humans (κ)", "verdict"):
        table.add_column(column)
    for d in c.differences:
        interval = f"{d.value:+.3f} ({d.interval[0]:+.3f} to {d.interval[1]:+.3f})"
        human = f"{HUMAN[d.task]:.2f}" if d.task in HUMAN else ""
        table.add_row(
            d.task, str(d.n), f"{d.a:.3f}", f"{d.b:.3f}", interval, f"{d.p:.3f}", human, d.verdict
        )
    console.print(table)
    for key in _COST:
        if key in c.a.metrics and key in c.b.metrics:
            console.print(f"{key}: A {c.a.metrics[key]:.1f}, B {c.b.metrics[key]:.1f}")
    won = sum(f["change"] == "won" for f in c.flipped)
    console.print(f"{won} answers won, {len(c.flipped) - won} lost by B")


def html_report(c: Comparison) -> str:
    """Return the comparison as one self-contained HTML page."""
    diff = [
        [
            d.task,
            d.n,
            f"{d.a:.3f}",
            f"{d.b:.3f}",
            f"{d.value:+.3f} ({d.interval[0]:+.3f} to {d.interval[1]:+.3f})",
            f"{d.p:.3f}",
            HUMAN.get(d.task, ""),
            d.verdict,
        ]
        for d in c.differences
    ]
    keys = [k for k in sorted(c.a.metrics) if k in c.b.metrics and not k.startswith("train.")]
    metrics = [[k, f"{c.a.metrics[k]:.3f}", f"{c.b.metrics[k]:.3f}"] for k in keys]
    classes = [
        [r["task"], r["label"], r["n"], f"{r['a']:.3f}", f"{r['b']:.3f}", f"{r['b'] - r['a']:+.3f}"]
        for r in sorted(c.per_class, key=lambda r: r["b"] - r["a"])
    ]
    flips = [[f["change"], f["task"], f["id"], f["truth"], f["a"], f["b"]] for f in c.flipped]
    return "".join(
        [
            _HEAD,
            f"<h1>B {escape(c.b.name)}<br>against A {escape(c.a.name)}</h1>",
            "<p>Macro-F1 on the common test texts; paired bootstrap interval, approximate "
            "randomisation p; humans: Cohen's κ between two annotators of real press.</p>",
            _table(["task", "n", "A", "B", "B − A (95 %)", "p", "humans", "verdict"], diff),
            "<h2>Labels, worst change first</h2>",
            _table(["task", "label", "n", "A", "B", "change"], classes),
            "<h2>Metrics</h2>",
            _table(["metric", "A", "B"], metrics),
            f"<h2>Answers that changed ({len(flips)})</h2>",
            _table(["change", "task", "article", "true", "A", "B"], flips),
        ]
    )


_HEAD = (
    "<!doctype html><meta charset='utf-8'><title>presseco compare</title><style>"
    "body{font:14px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem;color:#222}"
    "h1{font-size:1.3rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}"
    "td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
    "td:nth-child(n+2){font-variant-numeric:tabular-nums}</style>"
)


def _table(head: list[str], rows: list[list[Any]]) -> str:
    cells = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(v))}</td>" for v in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{body}</table>"


def write_report(c: Comparison, root: Path) -> Path:
    """Write the HTML report under build/compare and attach it to run B in MLflow."""
    path = root / "build" / "compare" / f"{c.a.id[:8]}-{c.b.id[:8]}.html"
    html = html_report(c)
    write_text(path, html)
    MlflowClient().log_text(c.b.id, html, f"compare_{c.a.id[:8]}.html")
    return path


def run_compare(root: Path, a: str | None, b: str | None) -> int:
    """Print and write the comparison; return the exit code: 2 when B is clearly worse on a task."""
    mlflow.set_tracking_uri(tracking.tracking_uri(root))
    comparison = compare(root, a, b)
    console = Console()
    print_comparison(comparison, console)
    console.print(f"report: {write_report(comparison, root)}")
    return 2 if comparison.worse else 0
