"""What an exported model costs to serve: python benchmarks/serving.py [--bundle dist/camembert].

Every figure is taken in a process of its own (an idle pool of torch slows onnxruntime) and the
candidates take turns, so that a busy machine slows all of them: trust the ratios. Writes
benchmarks/serving.json and the table in docs/serving.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from presseco.files import write_block

ROOT = Path(__file__).resolve().parent.parent
CANDIDATES = ("transformers", "fp32", "int8")
TASKS = ("sector", "event_type", "sentiment")


def texts_of(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the labelled articles of some files."""
    return [json.loads(line) for p in paths for line in p.read_text("utf-8").splitlines()]


def load(candidate: str, bundle: Path) -> Any:
    """Return a function from texts to [{task: label}], on all cores."""
    if candidate == "transformers":
        from transformers import pipeline
        from transformers.utils import logging

        logging.set_verbosity_error()
        manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
        tokens = manifest["text"]["max_tokens"]
        options = {"batch_size": 32, "truncation": True, "max_length": tokens, "top_k": None}
        pipe = pipeline("text-classification", str(bundle / "hf"), function_to_apply="none")
        return lambda texts: [_best(scores) for scores in pipe(texts, **options)]
    from presseco import Classifier

    model = Classifier.load(bundle, precision=candidate)
    return lambda texts: [{t: a.label for t, a in p.answers.items()} for p in model.predict(texts)]


def _best(scores: list[dict[str, Any]]) -> dict[str, str]:
    best: dict[str, tuple[float, str]] = {}
    for s in scores:
        task, label = s["label"].split(":")
        best[task] = max(best.get(task, (-1e9, "")), (s["score"], label))
    return {task: label for task, (_, label) in best.items()}


def measure(candidate: str, bundle: Path, articles: list[Path], n: int) -> dict[str, Any]:
    """Take one candidate's figures in this process."""
    from presseco.text import prepare

    rows = texts_of(articles)
    texts = [prepare(r["text"]) for r in rows]
    started = time.perf_counter()
    run = load(candidate, bundle)
    run(["Le CAC 40 recule."])
    first = time.perf_counter() - started
    single = one_article(bundle, texts)
    took = []
    for _ in range(40):
        t = time.perf_counter()
        run([single])
        took.append(1000 * (time.perf_counter() - t))
    sample = texts[:n]
    run(sample[:8])
    t = time.perf_counter()
    answers = run(sample)
    speed = len(sample) / (time.perf_counter() - t)
    right = {k: [a[k] == r[k] for a, r in zip(answers, rows, strict=False)] for k in TASKS}
    return {
        "docs_per_second": speed,
        "p50_ms": statistics.median(took),
        "p10_ms": statistics.quantiles(took, n=10)[0],
        "load_to_first_answer_s": first,
        "resident_mb": resident_mb(),
        "accuracy": {k: sum(v) / len(v) for k, v in right.items()},
        "answers": answers,
    }


def one_article(bundle: Path, texts: list[str]) -> str:
    """Return an article's beginning of 256 tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_truncation()
    text = next(t for t in texts if len(tokenizer.encode(t).ids) > 256)
    while len(tokenizer.encode(text).ids) > 256:
        text = text.rsplit(" ", 1)[0]
    return text


def resident_mb() -> float:
    """Return this process's largest resident memory so far, in MB."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024 / 1e6


def collect(bundle: Path, articles: list[Path], n: int, rounds: int) -> dict[str, Any]:
    """Let the candidates take turns, each time in a fresh process; return medians and ratios."""
    found: dict[str, list[dict[str, Any]]] = {c: [] for c in CANDIDATES}
    for turn in range(rounds):
        for candidate in CANDIDATES:
            # Accuracy needs every article once; later turns time the first `n`.
            count = 10**6 if turn == 0 else n
            command = [sys.executable, __file__, "--one", candidate, "--n", str(count)]
            command += ["--bundle", str(bundle), "--articles", *map(str, articles)]
            env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
            out = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
            found[candidate].append(json.loads(out.stdout.splitlines()[-1]))
            print(
                turn + 1,
                candidate,
                f"{found[candidate][-1]['docs_per_second']:.1f} docs/s",
                flush=True,
            )
    return summary(found)


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return a line a candidate: medians over the turns; accuracy and agreement of the first."""
    exact = found["fp32"][0]["answers"]
    lines = {}
    for c, turns in found.items():
        keys = ("docs_per_second", "p50_ms", "p10_ms", "load_to_first_answer_s", "resident_mb")
        line: dict[str, Any] = {k: round(statistics.median(t[k] for t in turns), 2) for k in keys}
        pairs = zip(turns, found["transformers"], strict=True)
        ratios = [a["docs_per_second"] / b["docs_per_second"] for a, b in pairs]
        line["times_transformers"] = round(statistics.median(ratios), 2)
        line["accuracy"] = {k: round(v, 4) for k, v in turns[0]["accuracy"].items()}
        line["same_as_fp32"] = {
            k: round(
                statistics.mean(
                    a[k] == b[k] for a, b in zip(turns[0]["answers"], exact, strict=True)
                ),
                4,
            )
            for k in TASKS
        }
        lines[c] = line
    n = len(exact)
    cpu = re.findall(r"model name\s+: (.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    return {
        "articles": n,
        "rounds": len(found["fp32"]),
        "cores": os.cpu_count(),
        "cpu": cpu[0] if cpu else platform.processor(),
        "load_average": os.getloadavg()[0],
        "candidates": lines,
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as the Markdown table of docs/serving.md."""
    names = {
        "transformers": "transformers pipeline",
        "fp32": "bundle, fp32",
        "int8": "bundle, int8",
    }
    out = [
        "| | docs/s | × transformers | ms an article (256 tokens), median | ms, best tenth | s to first "
        "answer | MB resident | accuracy sector / event / sentiment | same answer as fp32 |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for key, c in result["candidates"].items():
        accuracy = " / ".join(f"{v:.3f}" for v in c["accuracy"].values())
        same = " / ".join(f"{v:.3f}" for v in c["same_as_fp32"].values())
        out.append(
            f"| {names[key]} | {c['docs_per_second']:.1f} | {c['times_transformers']:.2f} | "
            f"{c['p50_ms']:.0f} | {c['p10_ms']:.0f} | {c['load_to_first_answer_s']:.2f} | "
            f"{c['resident_mb']:.0f} | {accuracy} | {same} |"
        )
    out += [
        "",
        f"{result['articles']} test articles, {result['rounds']} rounds in turns, {result['cores']} "
        f"cores of {result['cpu']}; load average at the end {result['load_average']:.1f} (1 to 2 is this "
        "benchmark alone: above it, others were at work too and only the ratios count).",
    ]
    return "\n".join(out)


def main() -> None:
    """Measure, write the JSON and put the table between the marks in docs/serving.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "dist" / "camembert")
    parser.add_argument("--articles", type=Path, nargs="+")
    parser.add_argument("--n", type=int, default=96, help="articles timed in the later rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=CANDIDATES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    articles = args.articles or sorted((ROOT / "data" / "articles").glob("T?.jsonl"))
    if args.one:
        print(json.dumps(measure(args.one, args.bundle, articles, args.n)))
        return
    result = collect(args.bundle.resolve(), articles, args.n, args.rounds)
    (ROOT / "benchmarks" / "serving.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    write_block(ROOT / "docs/serving.md", "serving", table(result))
    print(table(result))


if __name__ == "__main__":
    main()
