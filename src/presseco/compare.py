"""Compare two runs on the same test texts: `make compare A=… B=…`; table, HTML report, exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from presseco import tracking
from presseco.agreement import kappa
from presseco.errors import NO, StoreError
from presseco.evaluate import Ints, confusion_matrix, per_class
from presseco.files import write_text
from presseco.runs import Run, last_training, read_run
from presseco.significance import Difference, compare_guesses
from presseco.table import HUMAN

__all__ = ["Comparison", "Run", "compare", "compare_runs", "read_run", "run_compare"]

#: What a model costs, and the sign of a difference that is good.
COST = {"docs_per_second": "documents a second", "megabytes": "MB", "minutes": "training minutes"}


@dataclass(frozen=True)
class Comparison:
    """Two runs on the texts that both predicted: differences by task, and what changed.

    `kappa` has, a task, Cohen's kappa of A and of B with the true labels: the measure that the
    annotators' agreement is given in.
    """

    a: Run
    b: Run
    differences: list[Difference]
    kappa: dict[str, tuple[float, float]]
    per_class: list[dict[str, Any]]
    flipped: list[dict[str, str]]

    @property
    def worse(self) -> bool:
        """Return whether B is clearly worse on a task: what a CI job fails on."""
        return any(d.verdict == "worse" for d in self.differences)

    @property
    def summary(self) -> str:
        """Return one sentence: on which tasks B is better, worse, or not clearly either."""
        parts = []
        for verdict, text in (("better", "better on"), ("worse", "worse on")):
            tasks = [d.task for d in self.differences if d.verdict == verdict]
            parts += [f"{text} {', '.join(tasks)}"] if tasks else []
        open_ = [d.task for d in self.differences if d.verdict == "no clear difference"]
        parts += [f"no clear difference on {', '.join(open_)}"] if open_ else []
        return "B is " + "; ".join(parts) if parts[0][0] != "n" else "; ".join(parts).capitalize()


def compare(
    root: Path, a: str | None, b: Sequence[str], experiment: str = "presseco"
) -> list[Comparison]:
    """Compare each run B with run A; without names, the last training's CamemBERT and baseline."""
    tracking.connect(root, experiment)
    if a is None or not b:
        _, rows = last_training(root, experiment)
        by_kind = {r.params.get("kind"): r.run_id for r in rows}
        a = a or by_kind.get("baseline") or rows[0].run_id
        b = b or [by_kind.get("camembert") or rows[-1].run_id]
    first = read_run(a, experiment)
    return [compare_runs(first, read_run(name, experiment)) for name in b]


def compare_runs(a: Run, b: Run) -> Comparison:
    """Compare two loaded runs on their common texts; refuse runs whose truth differs."""
    if a.id == b.id:
        raise StoreError(f"A and B are one run, {a.name} ({a.id}); name another with A=… or B=…")
    bt = {i: n for n, i in enumerate(b.ids)}
    pairs = [(n, bt[i]) for n, i in enumerate(a.ids) if i in bt]
    if not pairs:
        raise StoreError(
            f"{a.name} and {b.name} have no test text in common (corpora {a.corpus} and {b.corpus}). "
            "Train both on one corpus."
        )
    differences, agreement, changes, flipped = [], {}, [], []
    for task in a.truth:
        if task not in b.truth:
            raise StoreError(f"{b.name} has no task {task}; its tasks: {', '.join(b.truth)}")
        if [a.truth[task][i] for i, _ in pairs] != [b.truth[task][j] for _, j in pairs]:
            raise StoreError(f"{task}: the two runs were scored against different labels")
        known = [(i, j) for i, j in pairs if a.truth[task][i] is not None]
        truth = [str(a.truth[task][i]) for i, _ in known]
        ga, gb = [a.guess[task][i] for i, _ in known], [b.guess[task][j] for _, j in known]
        labels = sorted({*truth, *ga, *gb})
        t, x, y = (_numbers(s, labels) for s in (truth, ga, gb))
        differences.append(compare_guesses(task, t, x, y, len(labels)))
        agreement[task] = (kappa(truth, ga), kappa(truth, gb))
        changes += _class_changes(task, labels, t, x, y)
        flipped += _flips(a, b, task, known)
    return Comparison(a, b, differences, agreement, changes, flipped)


def _numbers(values: list[str], labels: list[str]) -> Ints:
    place = {label: i for i, label in enumerate(labels)}
    return np.array([place[v] for v in values], dtype=np.int64)


def _class_changes(
    task: str, labels: list[str], truth: Ints, a: Ints, b: Ints
) -> list[dict[str, Any]]:
    before, after = (per_class(labels, confusion_matrix(truth, g, len(labels))) for g in (a, b))
    return [
        {"task": task, "label": x["label"], "n": x["n"], "a": x["f1"], "b": y["f1"]}
        for x, y in zip(before, after, strict=True)
    ]


def _flips(a: Run, b: Run, task: str, rows: list[tuple[int, int]]) -> list[dict[str, str]]:
    """Return the answers that are right in one run and wrong in the other."""
    found = []
    for i, j in rows:
        truth, left, right = str(a.truth[task][i]), a.guess[task][i], b.guess[task][j]
        if left != right and truth in (left, right):
            text = b.texts[j] if b.texts else a.texts[i] if a.texts else ""
            row = {"id": a.ids[i], "task": task, "text": text, "truth": truth, "a": left}
            found.append(row | {"b": right, "change": "won" if right == truth else "lost"})
    return found


def print_comparison(c: Comparison, console: Console) -> None:
    """Print the differences as a table, and the verdict."""
    title = f"A: {c.a.name}\nB: {c.b.name}"
    shape: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    table = Table(title=title, title_justify="left", **shape)  # fits 80 columns
    for column in ("task", "A", "B", "B - A (95 %)", "p", "κ A/B", "humans"):
        table.add_column(column, no_wrap=True)
    table.add_column("verdict", min_width=10)
    for d in c.differences:
        interval = f"{d.value:+.3f}\n{d.interval[0]:+.3f} … {d.interval[1]:+.3f}"
        human = f"{HUMAN[d.task]:.2f}" if d.task in HUMAN else ""
        kappas = "/".join(f"{k:.2f}" for k in c.kappa[d.task])
        name, a, b, p = f"{d.task}\nn = {d.n}", f"{d.a:.3f}", f"{d.b:.3f}", f"{d.p:.3f}"
        table.add_row(name, a, b, interval, p, kappas, human, d.verdict)
    console.print(table)
    console.print(
        "A, B: macro-F1. κ: with the true labels; humans: κ of two annotators of real press.",
        highlight=False,
    )
    for key, words in COST.items():
        if key in c.a.metrics and key in c.b.metrics:
            a, b = f"{c.a.metrics[key]:.1f}", f"{c.b.metrics[key]:.1f}"
            console.print(f"{words}: A {a}, B {b}", highlight=False)
    won = sum(f["change"] == "won" for f in c.flipped)
    console.print(f"{won} answers won, {len(c.flipped) - won} lost by B. {c.summary}.")


def write_report(c: Comparison, root: Path) -> Path:
    """Write the HTML report under build/compare and attach it to run B in MLflow."""
    from presseco.compare_page import comparison_page

    path = root / "build" / "compare" / f"{c.a.id[:8]}-{c.b.id[:8]}.html"
    html = comparison_page(c)
    write_text(path, html)
    try:
        MlflowClient().log_text(c.b.id, html, f"compare/{c.a.model}-{c.a.id[:8]}.html")
    except (MlflowException, OSError) as e:
        reason = (str(e).splitlines() or ["unknown error"])[0]
        raise StoreError(f"{path} is written, but not attached to run {c.b.id}: {reason}") from e
    return path


def run_compare(
    root: Path, a: str | None, b: Sequence[str] = (), experiment: str = "presseco"
) -> int:
    """Print and write each comparison; return `NO` when a B is clearly worse on a task, else 0."""
    console, code = Console(), 0
    for comparison in compare(root, a, b, experiment):
        print_comparison(comparison, console)
        console.print(f"report: {write_report(comparison, root)}", soft_wrap=True)
        code = NO if comparison.worse else code
    return code
