"""Write the tables of docs/labels.md from the last run of `presseco label` and of weak_table.py."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from presseco.errors import ConfigError, PressecoError
from presseco.files import write_block
from presseco.labelreport import markdown

_WORST = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("build/labels/report.json"))
    parser.add_argument("--weak", type=Path, default=Path("benchmarks/weak.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/labels.md"))
    args = parser.parse_args()
    try:
        report = read(args.report, "presseco label")
        blocks = {
            "sources": sources(report),
            "functions": functions(report),
            "harmful": harmful(report),
            "weak": weak(read(args.weak, "python scripts/weak_table.py")),
        }
        for name, text in blocks.items():
            write_block(args.page, name, text)
    except PressecoError as e:
        print(f"label_figures: {e}", file=sys.stderr)
        return 1
    print(f"{len(blocks)} tables in {args.page}")
    return 0


def read(path: Path, command: str) -> Any:
    if not path.exists():
        raise ConfigError(f"{path}: missing; first: {command}")
    return json.loads(path.read_text(encoding="utf-8"))


def sources(report: dict[str, Any]) -> str:
    splits = ("train", "validation", "test")
    head = ["task", "source", "coverage", "overlap", "conflict", *(f"right: {s}" for s in splits)]
    rows = [
        [
            r["task"],
            r["source"],
            *(f"{r[k]:.3f}" for k in ("coverage", "overlap", "conflict")),
            *(f"{r['accuracy'][s]:.3f} of {r['n'][s]:,}" if s in r["n"] else "–" for s in splits),
        ]
        for r in report["sources"]
    ]
    return f"{report['articles']:,} articles.\n\n{markdown((head, rows))}"


def functions(report: dict[str, Any]) -> str:
    head = ["function", "task", "label", "hits", "right", "prior"]
    return markdown((head, [cells(r) for r in report["functions"]]))


def harmful(report: dict[str, Any]) -> str:
    bad = [r for r in report["parts"] if r["verdict"] == "harmful"]
    dead = [r for r in report["parts"] if r["verdict"] == "dead"]
    bad.sort(key=lambda r: r["n"] * (r["right"] - r["prior"]))
    head = ["part", "task", "label", "hits", "right", "prior"]
    names = ", ".join(f"`{r['part']}`" for r in dead[:_WORST])
    return (
        f"{len(bad)} harmful parts of {len(report['parts']):,}; the worst:\n\n"
        f"{markdown((head, [cells(r) for r in bad[:_WORST]]))}\n"
        f"{len(dead)} dead ones, among them {names}. All are in the report.\n"
    )


def cells(r: dict[str, Any]) -> list[str]:
    share = [f"{r['right']:.2f}", f"{r['prior']:.2f}"]
    return [f"`{r['part']}`", r["task"], r["label"], f"{r['hits']:,}", *share]


def weak(points: list[dict[str, Any]]) -> str:
    tasks = list(points[0]["macro_f1"])
    head = ["model", "trained on", "gold articles", *tasks]
    rows = []
    for p in points:
        scores = [
            f"{p['macro_f1'][t]:.3f} ({p['interval'][t][0]:.3f}–{p['interval'][t][1]:.3f})"
            for t in tasks
        ]
        rows.append([p["model"], p["trained_on"], f"{p['gold']:,}", *scores])
    settings = ", ".join(f"`{s}`" for s in points[0]["settings"]) or "as shipped"
    seeds = max(len(p["seeds"]) for p in points)
    note = f"Corpus `{points[0]['corpus']}`: macro-F1 on test, mean of {seeds} draws of the gold "
    note += f"articles; settings: {settings}."
    return f"{note}\n\n{markdown((head, rows))}"


if __name__ == "__main__":
    sys.exit(main())
