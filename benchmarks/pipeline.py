"""Time the collection, read to duplicates and output: python benchmarks/pipeline.py [SIZE ...].

Articles are noisy copies of ours: in most every seventh word is another one, so that they are new
texts to the duplicate search; a tenth are light rewrites of an earlier one (near-duplicates), a
fiftieth exact copies. Each size runs in a process of its own; memory is the peak of that process
and its workers, sampled ten times a second. On a machine
that is busy otherwise the wall clock tells little: `per_second_of_free_cores` is reckoned from the CPU
seconds used (by all processes, idle waiting excluded). Writes pipeline.json and pipeline.png here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
SIZES = (10_000, 30_000, 100_000)
_LINES_A_FILE = 20_000


def main() -> None:
    """Measure the sizes asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="10000 ... 300000")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.workers)))
        return
    with tempfile.TemporaryDirectory(prefix="presseco-pipeline-") as name:
        runs = [run(Path(name), size, args.workers) for size in args.sizes]
        pages = run_pages(Path(name), args.workers)
    result = {"machine": machine(), "workers": args.workers, "runs": runs, "html": pages}
    (HERE / "pipeline.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(result)
    from presseco.files import write_block

    write_block(ROOT / "docs/data.md", "pipeline", table(result))
    print(f"{len(runs)} sizes measured, in {HERE / 'pipeline.json'} and pipeline.png")


def table(result: dict[str, Any]) -> str:
    """Return the measurements as the table of docs/data.md."""
    lines = [
        "| articles | seconds | articles/s | of CPU time alone | peak MB |",
        "|--:|--:|--:|--:|--:|",
    ]
    for r in result["runs"]:
        lines.append(
            f"| {r['articles']:,} | {r['seconds']:.0f} | {r['per_second']:,} | "
            f"{r['per_second_of_free_cores']:,} | {r['megabytes']:,.0f} |"
        )
    load, cores = result["machine"]["load_before"], result["machine"]["cores"]
    return "\n".join(lines) + (
        f"\n\n{cores} cores, {result['workers']} workers, load {load} before the start. The fourth "
        "column is what the CPU time spent would give with nothing else on these cores."
    )


def run(folder: Path, size: int, workers: int) -> dict[str, Any]:
    """Generate `size` articles, collect them in a fresh process, and return what was measured."""
    source = folder / f"press{size}"
    generate(source, size)
    row = {"articles": size, **in_process(source, workers)}
    say("articles", row)
    return row


def run_pages(folder: Path, workers: int, number: int = 1000) -> dict[str, Any]:
    """Collect `number` web pages: finding the article in the page is the dearest kind of reading."""
    source = folder / "pages"
    source.mkdir()
    menu = "<nav><ul>" + "<li><a href='/x'>Rubrique du site</a></li>" * 40 + "</ul></nav>"
    for i, text in enumerate(ours()[:number]):
        body = "".join(f"<p>{p}</p>" for p in text.split("\n"))
        article = f"<body>{menu}<article>{body}</article></body>"
        page = f"<html><head><title>{i}</title></head>{article}</html>"
        (source / f"{i}.html").write_text(page, encoding="utf-8")
    row = {"articles": len(list(source.iterdir())), **in_process(source, workers)}
    say("pages", row)
    return row


def say(what: str, row: dict[str, Any]) -> None:
    """Print one measured row."""
    print(
        f"{row['articles']:>8,} {what:8} {row['seconds']:7.1f} s {row['per_second']:6,}/s "
        f"({row['per_second_of_free_cores']:,}/s on free cores) {row['megabytes']:,} MB",
        flush=True,
    )


def in_process(source: Path, workers: int) -> dict[str, Any]:
    """Return what `measure` finds in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(source), "--workers", str(workers)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return dict(json.loads(out.stdout.splitlines()[-1]))


def measure(folder: Path, workers: int) -> dict[str, Any]:
    """Collect a folder and return seconds, articles a second, CPU seconds, peak MB and counts."""
    from presseco.collect import collect
    from presseco.config import read_config
    from presseco.source import Source

    config = read_config(ROOT / "configs/experiment/camembert-mini.yaml")
    source = Source.model_validate(
        {
            "name": "bench",
            "rights": {"licence": "CC-BY-4.0", "redistribute_text": True},
            "input": {"kind": "folder", "path": str(folder)},
            "output": f"{folder}-out",
        }
    )
    peak = Peak()
    start, cpu = time.perf_counter(), cpu_seconds()
    counts = collect(source, config, workers=workers)
    seconds = time.perf_counter() - start
    used = cpu_seconds() - cpu
    return {
        "seconds": round(seconds, 2),
        "per_second": round(counts.read / seconds),
        "cpu_seconds": round(used, 2),
        # What the machine gives when nobody else works on it; equal to per_second when idle.
        "per_second_of_free_cores": round(counts.read / used * max(1, workers)),
        "megabytes": round(peak.stop()),
        "read": counts.read,
        "kept": counts.kept,
        "stories": counts.stories,
        "aside": counts.aside,
    }


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Peak:
    """The largest memory of this process and its children together, while it runs."""

    def __init__(self) -> None:
        self._most, self._going = 0.0, True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the peak in MB."""
        self._going = False
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        me = psutil.Process()
        while self._going:
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self._most = max(self._most, total / 1e6)
            time.sleep(0.1)


def ours() -> list[str]:
    """Return the texts of our business articles."""
    texts = []
    for path in sorted((ROOT / "data/articles").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            rows = map(json.loads, lines)
            texts += [r["text"] for r in rows if not r.get("out_of_domain")]
    return texts


def generate(folder: Path, size: int, seed: int = 1) -> None:
    """Write `size` noisy copies of our articles as JSON Lines, streaming, without labels."""
    folder.mkdir()
    chance, texts = random.Random(seed), ours()
    words = sorted({w for t in texts[:400] for w in t.split()})
    recent = list(texts[:100])
    for start in range(0, size, _LINES_A_FILE):
        with (folder / f"{start:07}.jsonl").open("w", encoding="utf-8") as out:
            for _ in range(min(_LINES_A_FILE, size - start)):
                kind = chance.random()
                if kind < 0.02:
                    text = chance.choice(recent)
                elif kind < 0.12:
                    text = noisy(chance.choice(recent), words, 0.02, chance)
                else:
                    text = noisy(chance.choice(texts), words, 1 / 7, chance)
                recent[chance.randrange(100)] = text
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def noisy(text: str, words: list[str], share: float, chance: random.Random) -> str:
    """Return the text with a share of its words replaced by others."""
    lines = [line.split(" ") for line in text.split("\n")]
    for line in lines:
        for i in range(len(line)):
            if chance.random() < share:
                line[i] = chance.choice(words)
    return "\n".join(" ".join(line) for line in lines)


def machine() -> dict[str, Any]:
    """Return what the measurement was made on."""
    name = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    return {"cores": os.cpu_count(), "cpu": name, "load_before": round(os.getloadavg()[0], 1)}


def plot(result: dict[str, Any]) -> None:
    """Draw time and memory over the number of articles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    runs = result["runs"]
    sizes = [r["articles"] for r in runs]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(sizes, [r["seconds"] for r in runs], "o-", label="wall clock")
    left.plot(sizes, [r["cpu_seconds"] / result["workers"] for r in runs], "s-", label="CPU a core")
    left.plot(sizes, [n / 1500 for n in sizes], "--", color="grey", label="1,500 articles/s")
    left.set(xlabel="articles", ylabel="seconds", title="Time, read to output", ylim=0, xlim=0)
    left.legend()
    right.plot(sizes, [r["megabytes"] for r in runs], "o-")
    right.axhline(2000, ls="--", color="grey")
    right.set(xlabel="articles", ylabel="MB", title="Peak memory, all processes", ylim=0, xlim=0)
    figure.savefig(HERE / "pipeline.png", dpi=110)


if __name__ == "__main__":
    main()
