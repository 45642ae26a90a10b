"""What the cascade saves: python benchmarks/cascade.py [--model BUNDLE] [--baseline FOLDER].

Fit the cut first (presseco cascade); here it is judged on the test articles of the built corpus.
CamemBERT alone and the cascade take turns in processes of their own, so that a busy machine slows
both: trust the ratio. Writes benchmarks/cascade.json and the table in docs/serving.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from presseco.files import write_block

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("camembert", "cascade")
EXPERIMENT = ROOT / "configs/experiment/camembert-mini.yaml"


def articles() -> list[dict[str, Any]]:
    """Return the test articles of the built corpus, labels as positions (None: unknown)."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(ROOT / "build/corpus/test.parquet").to_pylist()
    return rows


def measure(side: str, model: str, baseline: Path, n: int) -> dict[str, Any]:
    """Classify the test articles in this process; return answers, share deflected and docs/s."""
    from presseco.cascade import Cascade
    from presseco.classifier import Classifier

    classifier: Any = Classifier.load(model)
    if side == "cascade":
        classifier = Cascade.load(baseline, classifier)
    texts = [r["text"] for r in articles()][:n]
    classifier.predict(texts[:8])
    started = time.perf_counter()
    given = classifier.predict(texts)
    seconds = time.perf_counter() - started
    names = [t.name for t in classifier.bundle.tasks]
    return {
        "docs_per_second": len(texts) / seconds,
        "by_baseline": [p.model.startswith("presseco-baseline@") for p in given],
        "answers": {t: [p[t].label for p in given] for t in names},
        "abstained": {t: statistics.mean(p[t].abstained for p in given) for t in names},
        "precision": classifier.precision,
    }


def collect(model: str, baseline: Path, n: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Let both sides take turns, each time in a fresh process; the first round takes all articles."""
    found: dict[str, list[dict[str, Any]]] = {s: [] for s in SIDES}
    for turn in range(rounds):
        for side in SIDES:
            count = 10**6 if turn == 0 else n
            command = [sys.executable, __file__, "--side", side, "--n", str(count)]
            command += ["--model", model, "--baseline", str(baseline)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{side}: {done.stderr.strip()[-1500:]}")
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
            speed = found[side][-1]["docs_per_second"]
            print(f"round {turn + 1}, {side}: {speed:.1f} docs/s", flush=True)
    return found


def summary(
    found: dict[str, list[dict[str, Any]]], rows: list[dict[str, Any]], labels: dict[str, list[str]]
) -> dict[str, Any]:
    """Return shares, speeds and, a task, macro-F1 of both with the paired bootstrap interval."""
    from presseco.significance import compare_guesses

    alone, cascade = (found[s][0] for s in SIDES)
    tasks = {}
    for task, names in labels.items():
        known = [i for i, r in enumerate(rows) if r[task] is not None]
        truth = np.array([rows[i][task] for i in known])
        a, b = (
            np.array([names.index(side["answers"][task][i]) for i in known])
            for side in (alone, cascade)
        )
        d = compare_guesses(task, truth, a, b, len(names))
        tasks[task] = {
            "n": d.n,
            "macro_f1": {"camembert": round(d.a, 4), "cascade": round(d.b, 4)},
            "difference": round(d.value, 4),
            "interval": [round(x, 4) for x in d.interval],
            "accuracy": {
                "camembert": round(float((a == truth).mean()), 4),
                "cascade": round(float((b == truth).mean()), 4),
            },
            "abstained": {s: round(found[s][0]["abstained"][task], 4) for s in SIDES},
        }
    pairs = zip(found["cascade"], found["camembert"], strict=True)
    ratios = [c["docs_per_second"] / a["docs_per_second"] for c, a in pairs]
    return {
        "articles": len(rows),
        "deflected": round(statistics.mean(cascade["by_baseline"]), 4),
        "precision": cascade["precision"],
        "cores": len(os.sched_getaffinity(0)),
        "rounds": len(ratios),
        "load_average": round(os.getloadavg()[0], 1),
        "docs_per_second": {
            s: round(statistics.median(r["docs_per_second"] for r in found[s]), 1) for s in SIDES
        },
        "times": round(statistics.median(ratios), 2),
        "tasks": tasks,
    }


def table(r: dict[str, Any]) -> str:
    """Return the figures as the Markdown table of docs/serving.md."""
    out = [
        "| task | macro-F1 CamemBERT | cascade | difference (95 %) | accuracy CamemBERT | cascade | "
        "abstains CamemBERT | cascade |",
        "|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for task, t in r["tasks"].items():
        low, high = t["interval"]
        f1, accuracy, no = t["macro_f1"], t["accuracy"], t["abstained"]
        out.append(
            f"| {task} | {f1['camembert']:.3f} | {f1['cascade']:.3f} | {t['difference']:+.3f} "
            f"({low:+.3f} to {high:+.3f}) | {accuracy['camembert']:.3f} | {accuracy['cascade']:.3f} | "
            f"{no['camembert']:.0%} | {no['cascade']:.0%} |"
        )
    speed = r["docs_per_second"]
    out += [
        "",
        f"{r['articles']} test articles, of which the baseline answered {r['deflected']:.1%}. "
        f"{speed['camembert']:.1f} documents a second without, {speed['cascade']:.1f} with it: "
        f"{r['times']:.2f} times ({r['precision']}, {r['cores']} core(s), median of {r['rounds']} rounds "
        f"in turns, load average {r['load_average']}). Models: {r['models']}.",
    ]
    return "\n".join(out)


def main() -> None:
    """Measure, write the JSON and put the table between the marks in docs/serving.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(ROOT / "dist/camembert"))
    parser.add_argument("--baseline", type=Path, default=ROOT / "dist/baseline")
    parser.add_argument("--n", type=int, default=160, help="articles timed in the later rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.model, args.baseline, args.n)))
        return
    from presseco.bundle import read_bundle
    from presseco.cascade import CASCADE

    bundle = read_bundle(args.model)
    rows, labels = articles(), {t.name: list(t.labels) for t in bundle.tasks}
    result = summary(collect(args.model, args.baseline, args.n, args.rounds), rows, labels)
    fitted = json.loads((args.baseline / CASCADE).read_text("utf-8"))
    result |= {"cut": fitted["cut"], "margin": fitted["margin"], "validation": fitted["validation"]}
    result["models"] = f"{bundle.name}@{bundle.version}, baseline@{fitted['models']['baseline']}"
    (ROOT / "benchmarks/cascade.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    write_block(ROOT / "docs/serving.md", "cascade", table(result))
    print(table(result))


if __name__ == "__main__":
    main()
