"""The learning curve's part of the results page: picture, scores over seeds, gain of word logits."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from presseco.ablation import gain_table
from presseco.curve import curve_figure
from presseco.fitted import GAIN

_WORDS_NOTE = (
    "What the words written into the fine-tuned weights ([model.md](model.md)) add to the mean macro-F1 "
    "of the three tasks: the model less its head as it was before them, by seed; 95 % interval "
    "(Student's t), **bold** where it excludes zero. Three factors are fitted on validation, none on "
    "test."
)


def curve_sections(root: Path, trained: str) -> list[str]:
    """Draw the learning curve; return its sections: scores by size and model, gain of word logits.

    `trained` is the corpus of the page's other figures: where the curve's is another, it says so.
    """
    path = root / "benchmarks/curve.json"
    if not path.exists():
        return []
    points = _last_points(json.loads(path.read_text(encoding="utf-8")))
    (root / "docs/figures").mkdir(parents=True, exist_ok=True)
    curve_figure(points).savefig(root / "docs/figures/curve.png", dpi=110)
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for p in points:
        groups.setdefault((p["articles"], p["model"]), []).append(p)
    tasks = list(points[-1]["test"])
    lines = [
        f"| articles | model | seeds | {' | '.join(f'{t} macro-F1' for t in tasks)} |",
        "|--:|---|--:|" + "---:|" * len(tasks),
    ]
    for (n, model), found in sorted(groups.items()):
        cells = []
        for t in tasks:
            values = [p["test"][t]["macro_f1"] for p in found]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {n} | {model} | {len(found)} | {' | '.join(cells)} |")
    corpus = points[-1]["corpus"]
    note = f"Corpus `{corpus}`, test split; mean ± standard deviation over seeds (`make curve`)."
    if corpus != trained:
        note += " This is not the corpus of the tables above."
    if old := _sizes(p for p in points if p["corpus"] != corpus):
        note += f" The points of {old} articles are of an earlier corpus with the same test split."
    if old := _sizes(p for p in points if _before_words(p, points)):
        note += (
            f" The points of {old} articles are of an earlier recipe: CamemBERT had no word logits."
        )
    sections = ["## Learning curve", note, "\n".join(lines), "![curve](figures/curve.png)"]
    if gains := gain_table(points):
        sections += ["## Word logits", _WORDS_NOTE, gains]
    return sections


def _before_words(point: dict[str, Any], points: list[dict[str, Any]]) -> bool:
    """Return whether a point was trained without the word logits that its model has elsewhere."""
    return GAIN not in point and any(GAIN in p for p in points if p["model"] == point["model"])


def _sizes(points: Iterable[dict[str, Any]]) -> str:
    return ", ".join(map(str, sorted({p["articles"] for p in points})))


def _last_points(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points scored on the newest one's test split: of each size and model the last corpus'.

    Of each seed the last: the recipe's now.
    """
    newest = points[-1]
    split = newest.get("test_split")
    last: dict[tuple[int, str], dict[int, dict[str, Any]]] = {}
    for p in points:
        if p["corpus"] == newest["corpus"] or (split and p.get("test_split") == split):
            seeds = last.setdefault((p["articles"], p["model"]), {})
            if any(q["corpus"] != p["corpus"] for q in seeds.values()):
                seeds.clear()
            seeds[p["seed"]] = p
    return [last[key][seed] for key in sorted(last) for seed in sorted(last[key])]
