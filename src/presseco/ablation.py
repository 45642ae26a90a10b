"""What an ablation found: paired differences to the base over seeds, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from scipy import stats

from presseco.fitted import GAIN

#: A difference's name and its settings.
What = tuple[str, tuple[str, ...]]
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


def _what(point: dict[str, Any]) -> What:
    """Return a point's difference: an edited one keeps its name and is another all the same."""
    return point["difference"], tuple(point["change"])


def compare_to_base(points: Iterable[dict[str, Any]]) -> dict[What, dict[str, Difference]]:
    """Return, a difference and task (and `mean` of the tasks), the paired difference to the base.

    `points` are of one batch, differences are told apart by name and change; only seeds that both
    sides have count, with their last point.
    """
    scores: dict[What, dict[int, dict[str, float]]] = {}
    for p in points:
        tasks = {t: s["macro_f1"] for t, s in p["validation"].items()}
        tasks["mean"] = float(np.mean(list(tasks.values())))
        scores.setdefault(_what(p), {})[p["seed"]] = tasks
    base = scores.pop((BASE, ()), {})
    out: dict[What, dict[str, Difference]] = {}
    for what, by_seed in scores.items():
        both = sorted(set(by_seed) & set(base))
        if both:
            out[what] = {
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
    points = list({(_what(p), p["seed"]): p for p in points}.values())  # the last of each
    base = [p for p in points if p["difference"] == BASE]
    if not base:
        return f"## Batch {points[0]['batch']}: no point of the base yet"
    first = base[0]
    tasks = list(first["validation"])
    lines = [
        f"## {first['articles']:,} articles, {first['epochs']} epochs, {len(base)} seeds"
        + "".join(f", {change}" for change in first.get("base", [])),
        "",
        f"Corpus `{first['corpus']}`, batch `{first['batch']}`, {_commits(points)}, "
        f"{_minutes(base)} minutes a base run (median).",
        "",
        f"| | seeds | mean of tasks | {' | '.join(tasks)} | minutes |",
        "|---|--:|" + "---|" * (len(tasks) + 1) + "--:|",
        f"| base | {len(base)} | {_levels(base, None)} | "
        + " | ".join(_levels(base, t) for t in tasks)
        + f" | {_minutes(base)} |",
    ]
    found = compare_to_base(points)
    for what, by_task in sorted(found.items(), key=lambda item: item[1]["mean"].mean):
        theirs = [p for p in points if _what(p) == what]
        name, change = what[0], "<br>".join(what[1])
        cells = " | ".join(str(by_task[t]) for t in ["mean", *tasks])
        lines.append(
            f"| {name}<br>`{change}` | {by_task['mean'].n} | {cells} | {_minutes(theirs)} |"
        )
    return "\n".join(lines)


def gain_table(points: Sequence[dict[str, Any]]) -> str:
    """Return what word logits added to the mean macro-F1, by size: the difference within each run.

    Empty when no point has any.
    """

    def which(point: dict[str, Any]) -> tuple[int, str]:
        return point["articles"], point["model"]

    own = sorted((p for p in points if GAIN in p), key=which)
    if not own:
        return ""
    lines = ["| articles | model | seeds | validation | test |", "|--:|---|--:|---|---|"]
    for (size, model), some in groupby(own, key=which):
        gains = [p[GAIN] for p in some]
        cells = [
            str(paired_difference([g[split] for g in gains if split in g]))
            for split in ("validation", "test")
        ]
        lines.append(f"| {size} | {model} | {len(gains)} | {' | '.join(cells)} |")
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


def _commits(points: Sequence[dict[str, Any]]) -> str:
    """Return all commits that the points were computed at, in order."""
    found = list(dict.fromkeys(f"`{p['commit']}`" for p in points))
    return f"commit{'s' * (len(found) > 1)} {', '.join(found)}"


def _minutes(points: Sequence[dict[str, Any]]) -> str:
    # The median: a run that stood still for half an hour says nothing about the others.
    return f"{np.median([p['seconds'] for p in points]) / 60:.1f}"
