"""Training speed against the stock transformers Trainer: `python benchmarks/training.py`.

Same encoder, articles, labels, tokens kept and epochs, from texts in memory to predictions for
validation, one process after the other, in turns. The stock side is what its examples do: every text
padded to the maximum, fp32, all layers trained, its own defaults, validation every epoch. Ours is
`configs/experiment/camembert-mini.yaml`, the pass through the frozen layers and the probe included.
Both say their macro-F1 on validation: faster and worse would not count. The ratio counts; single
speeds move with the machine. Needs the extra `bench` (accelerate). Writes benchmarks/training.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT = ROOT / "configs/experiment/camembert-mini.yaml"


def load(texts: int, epochs: int, tokens: int) -> tuple[Any, Any]:
    """Return the configuration and the data: `texts` training articles, a quarter to validate."""
    from presseco.config import read_config
    from presseco.corpus import build_corpus
    from presseco.examples import load_data
    from presseco.points import subset, without_test

    overrides = [f"camembert.epochs={epochs}", f"camembert.patience={epochs}"] if epochs else []
    overrides += [f"camembert.max_tokens={tokens}"] if tokens else []
    config = read_config(EXPERIMENT, overrides)
    data = without_test(subset(load_data(build_corpus(config)[0]), texts, seed=1))
    n = max(32, texts // 4) if texts else len(data.validation.ids)
    validation = data.validation.take(range(n))
    # Out-of-domain texts stay out: the stock side has no use for them.
    nothing: dict[str, list[str]] = {key: [] for key in data.outside}
    return config, replace(data, validation=validation, outside=nothing)


def stock(config: Any, data: Any) -> tuple[float, float]:
    """Return seconds and macro-F1 of `Trainer` with its own defaults."""
    import torch
    from torch.nn import functional
    from transformers import (
        AutoModelForSequenceClassification,
        PreTrainedTokenizerFast,
        Trainer,
        TrainingArguments,
    )

    from presseco.evaluate import mean_macro_f1
    from presseco.taxonomy import MISSING, slices

    folder, parts = ROOT / config.camembert.encoder, slices(data.task_map)
    started = time.perf_counter()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=parts[-1].stop)

    def rows(examples: Any) -> list[dict[str, Any]]:
        batch = tokenizer(
            examples.texts,
            padding="max_length",
            truncation=True,
            max_length=config.camembert.max_tokens,
        )
        return [
            {"input_ids": i, "attention_mask": m, "labels": y}
            for i, m, y in zip(
                batch["input_ids"], batch["attention_mask"], examples.labels.tolist(), strict=True
            )
        ]

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return sum(
            functional.cross_entropy(
                outputs.logits[:, s.start : s.stop], labels[:, t], ignore_index=MISSING
            )
            for t, s in enumerate(parts)
        )

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=32,
            num_train_epochs=config.camembert.epochs,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=config.seed,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=rows(data.train),
            eval_dataset=rows(data.validation),
            compute_loss_func=loss,
        )
        trainer.train()
        logits = trainer.predict(rows(data.validation)).predictions
    seconds = time.perf_counter() - started
    return seconds, mean_macro_f1(data.task_map, logits, data.validation.labels)


def ours(config: Any, data: Any) -> tuple[float, float]:
    """Return seconds and macro-F1 of what `make train` does to fit a model."""
    from presseco.evaluate import mean_macro_f1
    from presseco.fit import fit

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        fitted = fit(config, data, Path(work), lambda *_: None, lambda *_: None)
    seconds = time.perf_counter() - started
    score = mean_macro_f1(data.task_map, fitted.logits["validation"], data.validation.labels)
    return seconds, score


def one_side(name: str, texts: int, epochs: int, tokens: int) -> dict[str, float]:
    """Run one side in this process; return documents a second (of all epochs) and macro-F1."""
    config, data = load(texts, epochs, tokens)
    seconds, score = {"stock": stock, "ours": ours}[name](config, data)
    documents = len(data.train.ids) * config.camembert.epochs
    return {"docs_per_second": documents / seconds, "seconds": seconds, "macro_f1": score}


def main() -> None:
    """Run both sides in turns in processes of their own and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=("stock", "ours"), help="one side, in this process")
    parser.add_argument("--texts", type=int, default=160, help="training articles; 0: all")
    parser.add_argument("--epochs", type=int, default=0, help="0: as configured")
    parser.add_argument("--tokens", type=int, default=0, help="at most; 0: as configured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/training.json")
    args = parser.parse_args()
    sizes = (args.texts, args.epochs, args.tokens)
    if args.side:
        print(f"RESULT {json.dumps(one_side(args.side, *sizes))}")
        return
    results: dict[str, list[dict[str, float]]] = {"stock": [], "ours": []}
    same = ["--texts", str(args.texts), "--epochs", str(args.epochs), "--tokens", str(args.tokens)]
    for number in range(args.rounds):
        for name, done in results.items():
            command = [sys.executable, __file__, "--side", name, *same]
            child = subprocess.run(command, capture_output=True, text=True, check=False)
            if child.returncode:
                sys.exit(f"{name}: {child.stderr.strip()[-1500:]}")
            done.append(json.loads(child.stdout.rsplit("RESULT", 1)[1]))
            print(f"round {number + 1}, {name}: {done[-1]}", flush=True)
    ratios = sorted(
        o["docs_per_second"] / s["docs_per_second"]
        for o, s in zip(results["ours"], results["stock"], strict=True)
    )
    config, data = load(*sizes)
    summary = {
        "texts": len(data.train.ids),
        "epochs": config.camembert.epochs,
        "max_tokens": config.camembert.max_tokens,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "corpus": data.corpus.digest,
        "ratio_median": ratios[len(ratios) // 2],
        "ratios": ratios,
        "rounds": results,
    }
    args.output.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    print(f"ours / stock: {summary['ratio_median']:.2f} (rounds: {ratios}), in {args.output}")


if __name__ == "__main__":
    main()
