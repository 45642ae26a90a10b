"""What an ablation found: paired differences to the base over seeds, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from scipy import stats

#: The name of the unchanged recipe among the points.
BASE = "base"


@dataclass(frozen=True)
class Difference:
    """Mean paired difference to the base over `n` seeds, with its 95 % interval (Student's t).

    One seed gives no interval: `low` and `high` are infinite then.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        clear = "**" if self.low > 0 or self.high < 0 else ""
        span = f" ({self.low:+.3f} to {self.high:+.3f})" if self.n > 1 else " (one seed)"
        return f"{clear}{self.mean:+.3f}{clear}{span}"


def paired_difference(values: Sequence[float]) -> Difference:
    """Return the mean of paired differences, one a seed, with its 95 % t interval."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Difference(mean, -np.inf, np.inf, n)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Difference(mean, mean - half, mean + half, n)


def compare_to_base(points: Iterable[dict[str, Any]]) -> dict[str, dict[str, Difference]]:
    """Return, a difference and task (and `mean` of the tasks), the paired difference to the base.

    `points` are of one batch; only seeds that both sides have count.
    """
    scores: dict[str, dict[int, dict[str, float]]] = {}
    for p in points:
        tasks = {t: s["macro_f1"] for t, s in p["validation"].items()}
        tasks["mean"] = float(np.mean(list(tasks.values())))
        scores.setdefault(p["difference"], {})[p["seed"]] = tasks
    base = scores.pop(BASE, {})
    out: dict[str, dict[str, Difference]] = {}
    for name, by_seed in scores.items():
        both = sorted(set(by_seed) & set(base))
        if both:
            out[name] = {
                t: paired_difference([by_seed[s][t] - base[s][t] for s in both])
                for t in by_seed[both[0]]
            }
    return out


def ablation_table(points: Sequence[dict[str, Any]]) -> str:
    """Return one Markdown section a batch, the newest first: scores of the base, differences."""
    order = {p["batch"]: i for i, p in enumerate(points)}
    ranked = sorted(points, key=lambda p: -order[p["batch"]])
    return "\n\n".join(_section(list(g)) for _, g in groupby(ranked, key=lambda p: p["batch"]))


def _section(points: list[dict[str, Any]]) -> str:
    base = [p for p in points if p["difference"] == BASE]
    if not base:
        return f"## Batch {points[0]['batch']}: no point of the base yet"
    first = base[0]
    tasks = list(first["validation"])
    lines = [
        f"## {first['articles']:,} articles, {first['epochs']} epochs, {len(base)} seeds",
        "",
        f"Corpus `{first['corpus']}`, batch `{first['batch']}`, commit "
        f"`{first['commit']}`, {np.mean([p['seconds'] for p in base]) / 60:.1f} minutes a base run.",
        "",
        f"| | seeds | mean of tasks | {' | '.join(tasks)} | minutes |",
        "|---|--:|" + "---|" * (len(tasks) + 1) + "--:|",
        f"| base | {len(base)} | {_levels(base, None)} | "
        + " | ".join(_levels(base, t) for t in tasks)
        + f" | {_minutes(base)} |",
    ]
    found = compare_to_base(points)
    for name, by_task in sorted(found.items(), key=lambda item: item[1]["mean"].mean):
        theirs = [p for p in points if p["difference"] == name]
        change = "<br>".join(theirs[0]["change"])
        cells = " | ".join(str(by_task[t]) for t in ["mean", *tasks])
        lines.append(
            f"| {name}<br>`{change}` | {by_task['mean'].n} | {cells} | {_minutes(theirs)} |"
        )
    return "\n".join(lines)


def _levels(points: Sequence[dict[str, Any]], task: str | None) -> str:
    """Return mean ± standard deviation over seeds of macro-F1, of a task or of the tasks' mean."""
    values = [
        p["validation"][task]["macro_f1"]
        if task
        else np.mean([s["macro_f1"] for s in p["validation"].values()])
        for p in points
    ]
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _minutes(points: Sequence[dict[str, Any]]) -> str:
    return f"{np.mean([p['seconds'] for p in points]) / 60:.1f}"
