"""The result table, the same in the terminal, in MLflow's descriptions, README and docs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

#: Agreement (Cohen's kappa) of two annotators on 257 real press documents labelled with this
#: guideline. Another measure on other texts than the scores: an orientation, not a bound.
HUMAN = {"sector": 0.96, "event_type": 0.90, "sentiment": 0.84}
_SCORE = re.compile(r"^test\.(\w+)\.macro_f1$")


@dataclass(frozen=True)
class Line:
    """One model: its short name and its metrics, by MLflow's names."""

    name: str
    metrics: Mapping[str, float]

    def scores(self, tasks: Sequence[str]) -> list[tuple[str, str]]:
        """Return macro-F1 and its 95 % interval, a task, as text."""
        m, found = self.metrics, []
        for t in tasks:
            key = f"test.{t}.macro_f1"
            found.append((f"{m[key]:.3f}", f"{m[key + '_low']:.3f}–{m[key + '_high']:.3f}"))
        return found

    @property
    def cost(self) -> list[str]:
        """Return texts a second, megabytes and minutes of training, as text."""
        m = self.metrics
        return [f"{m['docs_per_second']:.0f}", f"{m['megabytes']:.0f}", f"{m['minutes']:.1f}"]


def tasks_of(metrics: Mapping[str, float]) -> list[str]:
    """Return the tasks that have a test score, in the order of the taxonomy where it is known."""
    found = [m.group(1) for key in metrics if (m := _SCORE.match(key))]
    return sorted(found, key=lambda t: list(HUMAN).index(t) if t in HUMAN else len(HUMAN))


def short(count: int) -> str:
    """Return a number of articles as a run's name has it: `600`, `2k`, `3.5k`."""
    return str(count) if count < 1000 else f"{count / 1000:.1f}".removesuffix(".0") + "k"


def markdown(lines: Sequence[Line]) -> str:
    """Return the comparison as Markdown, one line a model."""
    tasks = tasks_of(lines[0].metrics)
    head = ["model", *[f"{t} macro-F1" for t in tasks], "docs/s", "MB", "minutes"]
    rows = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for line in lines:
        cells = [f"{score} ({interval})" for score, interval in line.scores(tasks)]
        rows.append(f"| {' | '.join([line.name, *cells, *line.cost])} |")
    return "\n".join(rows)


def terminal(lines: Sequence[Line], sizes: Mapping[str, int]) -> Table:
    """Return the comparison for the terminal, in 80 columns; `sizes` counts test texts a task."""
    tasks = tasks_of(lines[0].metrics)
    title = "Test split: macro-F1 (95 % bootstrap interval)"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    for t in tasks:
        table.add_column(f"{t}\nn = {sizes[t]}", no_wrap=True)
    for column in ("docs/s", "MB", "min"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        cells = [f"{score}\n{interval}" for score, interval in line.scores(tasks)]
        table.add_row(line.name, *cells, *line.cost)
    return table
