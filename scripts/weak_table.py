"""Train on weak labels, on gold, on both, at equal gold size: python scripts/weak_table.py --help.

Needs the weak labels of the embedded corpus: `presseco label`. A point that the output file has
already, for the same corpus and labels, is not computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from presseco.baseline import fit_baseline
from presseco.config import Config, read_config
from presseco.corpus import build_corpus
from presseco.curve import subset
from presseco.errors import ConfigError, PressecoError
from presseco.evaluate import Ints, confusion_matrix, macro_f1
from presseco.examples import Data, Examples, load_data
from presseco.files import write_text
from presseco.fit import fit
from presseco.label import EMBEDDED
from presseco.taxonomy import MISSING, slices
from presseco.work import working

#: Times that a gold article counts where it stands beside weak ones: gold is right, weak often.
_GOLD_COUNTS = 3
_RESAMPLES = 1000
#: Gives guesses on the test split, shape (articles, tasks), from training examples.
Trainer = Callable[[Examples], Ints]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["baseline", "frozen"])
    parser.add_argument("--camembert", action="store_true", help="fine-tuning too (hours on a CPU)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", default="benchmarks/weak.json")
    args = parser.parse_args()
    try:
        report(args)
    except PressecoError as e:
        print(f"weak_table: {e}", file=sys.stderr)
        return 1
    return 0


def report(args: argparse.Namespace) -> None:
    models = [*args.models, *(["camembert-mini"] if args.camembert else [])]
    configs = {m: read_config(f"configs/experiment/{m}.yaml", args.set) for m in models}
    first = configs[models[0]]
    corpus, _ = build_corpus(first)
    data = load_data(corpus)
    weak, digest = weak_labels(first.path(EMBEDDED) / "labels.jsonl", data)
    path = first.path(args.output)
    stamp = {"corpus": corpus.digest, "labels": digest, "settings": sorted(args.set)}
    points: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    points = [p for p in points if stamp.items() <= p.items()]
    console = Console()
    for name, config in configs.items():
        train = trainer(config, data)
        for what, size in plan(args.sizes):
            key = {**stamp, "model": name, "trained_on": what, "gold": size, "seeds": args.seeds}
            if any(key.items() <= p.items() for p in points):
                continue
            seeds = args.seeds if size else args.seeds[:1]  # all weak articles: nothing is drawn
            guesses = [train(examples(data, weak, what, size, s)) for s in seeds]
            point = key | score(guesses, data)
            points.append(point)
            write_text(path, json.dumps(points, indent=1) + "\n")
            console.print(f"{name}, {what}, {size} gold: {point['macro_f1']}")
    print(f"{len(points)} points in {path}")


def plan(sizes: Sequence[int]) -> list[tuple[str, int]]:
    """Return what is trained on, with how many gold articles."""
    return [("weak", 0), *((w, n) for n in sizes for w in ("gold", "weak and gold"))]


def weak_labels(path: Path, data: Data) -> tuple[Ints, str]:
    """Return the weak labels of the training articles, shape (articles, tasks), and their digest."""
    if not path.exists():
        raise ConfigError(f"{path}: missing; first: presseco label")
    text = path.read_text(encoding="utf-8")
    rows = {r["id"]: r for r in map(json.loads, text.splitlines())}
    tasks = data.corpus.taxonomy
    found = [[tasks.index(t, rows.get(i, {}).get(t)) for t in tasks.names] for i in data.train.ids]
    return np.array(found, dtype=np.int64), hashlib.sha256(text.encode()).hexdigest()[:16]


def examples(data: Data, weak: Ints, what: str, size: int, seed: int) -> Examples:
    """Return the training examples: weak labels, `size` gold ones, or gold in place of weak."""
    every = data.train
    ids = {i: k for k, i in enumerate(every.ids)}
    gold = [ids[i] for i in subset(data, size, seed).train.ids] if size else []
    if what == "gold":
        return every.take(gold)
    rest = [k for k in range(len(ids)) if k not in set(gold) and (weak[k] != MISSING).any()]
    labels = weak.copy()
    labels[gold] = every.labels[gold]
    return replace(every, labels=labels).take(rest + gold * _GOLD_COUNTS)


def trainer(config: Config, data: Data) -> Trainer:
    """Return what trains a model of this configuration and guesses the test split."""
    match config.kind:
        case "baseline":
            return lambda e: guess(
                fit_baseline(
                    e.texts,
                    e.labels,
                    data.validation.texts,
                    data.validation.labels,
                    task_map=data.task_map,
                    config=config.baseline,
                ).logits(data.test.texts),
                data,
            )
        case "frozen":
            return frozen(config, data)
        case _:
            return lambda e: guess(finetuned(config, data, e), data)


def frozen(config: Config, data: Data) -> Trainer:
    """Return the trainer on frozen vectors, which are computed once for all points."""
    from presseco.encoder import load_model, load_tokenizer, locate, token_ids
    from presseco.probe import fit_probe
    from presseco.states import device_for, encode, use_bf16

    folder = locate(config.camembert.encoder, config.root)
    model = load_model(folder, data.task_map, 0.0).to(device_for())
    tokenizer = load_tokenizer(folder)
    bf16 = use_bf16(config.camembert.precision, device_for())

    def vectors(texts: list[str]) -> Any:
        ids = token_ids(tokenizer, texts, config.camembert.max_tokens)
        return encode(model, ids, frozen_layers=0, bf16=bf16)[1]

    place = {i: k for k, i in enumerate(data.train.ids)}
    train, validation, test = (vectors(s.texts) for s in (data.train, data.validation, data.test))

    def run(e: Examples) -> Ints:
        x = train[[place[i] for i in e.ids]]
        grid = config.frozen.c_grid
        probe = fit_probe(x, e.labels, validation, data.validation.labels, data.task_map, grid)
        return guess(probe.logits(test), data)

    return run


def finetuned(config: Config, data: Data, e: Examples) -> Any:
    """Return the test logits of a CamemBERT fine-tuned on the examples."""
    key = hashlib.sha256(repr((e.ids, e.labels.tolist())).encode()).hexdigest()[:8]
    with working(config, f"{data.corpus.digest}-{key}") as work:
        now = replace(data, train=e, encoded={})
        return fit(config, now, work, lambda *_: None, lambda *_: None).logits["test"]


def guess(logits: Any, data: Data) -> Ints:
    """Return the likeliest labels, shape (articles, tasks)."""
    spans = slices(data.task_map)
    return np.stack([logits[:, s.start : s.stop].argmax(axis=1) for s in spans], axis=1)


def score(guesses: list[Ints], data: Data) -> dict[str, Any]:
    """Return mean macro-F1 over seeds, a task, with its 95 % interval over test articles."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(data.test.ids), (_RESAMPLES, len(data.test.ids)))
    means, intervals, spread = {}, {}, {}
    for t, s in enumerate(slices(data.task_map)):
        truth, k = data.test.labels[:, t], s.stop - s.start
        scores = [float(macro_f1(confusion_matrix(truth, g[:, t], k))) for g in guesses]
        draws = [
            np.mean([macro_f1(confusion_matrix(truth[p], g[p, t], k)) for g in guesses])
            for p in picks
        ]
        low, high = np.quantile(draws, [0.025, 0.975])
        means[s.name] = round(float(np.mean(scores)), 4)
        intervals[s.name] = [round(float(low), 4), round(float(high), 4)]
        spread[s.name] = [round(x, 4) for x in scores]
    return {"macro_f1": means, "interval": intervals, "by_seed": spread}


if __name__ == "__main__":
    sys.exit(main())
