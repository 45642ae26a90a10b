"""Training speed against the stock transformers Trainer: `python benchmarks/training.py`.

Same encoder, same articles, same tokens kept, one process after the other, in turns. The stock side is
what its examples do: every text padded to the maximum, fp32, all layers trained. Ours is what
`configs/experiment/camembert-mini.yaml` says. The ratio counts; single speeds move with the machine.
Writes benchmarks/training.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def stock(texts: list[str], labels: list[int], max_tokens: int) -> float:
    """Return documents a second of `Trainer` over one epoch."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        PreTrainedTokenizerFast,
        Trainer,
        TrainingArguments,
    )

    folder = ROOT / "models/encoder"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=32)
    batch = tokenizer(texts, padding="max_length", truncation=True, max_length=max_tokens)
    rows = [
        {"input_ids": torch.tensor(i), "attention_mask": torch.tensor(m), "labels": y}
        for i, m, y in zip(batch["input_ids"], batch["attention_mask"], labels, strict=True)
    ]
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            per_device_train_batch_size=16,
            num_train_epochs=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        started = time.perf_counter()
        Trainer(model, arguments, train_dataset=rows).train()
    return len(texts) / (time.perf_counter() - started)


def ours(texts: list[str], labels: list[int], max_tokens: int) -> float:
    """Return documents a second of one epoch here, the pass through the frozen layers included.

    That pass happens once a job and serves all epochs; it is counted at its share of one in
    `epochs`, as configured.
    """
    import numpy as np
    import torch

    from presseco.camembert import fine_tune
    from presseco.config import read_config
    from presseco.encoder import load_model, load_tokenizer
    from presseco.fit import token_ids
    from presseco.states import Inputs, device_for, encode, use_bf16

    overrides = [
        "camembert.epochs=1",
        f"camembert.max_tokens={max_tokens}",
        "camembert.probe_head=false",
    ]
    full = read_config(ROOT / "configs/experiment/camembert-mini.yaml")
    config = read_config(ROOT / "configs/experiment/camembert-mini.yaml", overrides).camembert
    folder, tasks = ROOT / "models/encoder", [["all", [str(i) for i in range(32)]]]
    model = load_model(folder, tasks, config.dropout).to(device_for())
    ids = token_ids(load_tokenizer(folder), texts, max_tokens)
    bf16 = use_bf16(config.precision, device_for())
    torch.manual_seed(0)
    started = time.perf_counter()
    inputs, _ = encode(model, ids, frozen_layers=config.frozen_layers, bf16=bf16)
    once = time.perf_counter() - started
    few = Inputs(ids[:2], None, [])
    few, _ = encode(model, few.ids, frozen_layers=config.frozen_layers, bf16=bf16)
    y = np.array(labels)[:, None]
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        fine_tune(
            model, inputs, y, few, y[:2], task_map=tasks, config=config, seed=0, folder=Path(out)
        )
        epoch = time.perf_counter() - started
    return len(texts) / (epoch + once / full.camembert.epochs)


def main() -> None:
    """Run both sides in turns in processes of their own and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=("stock", "ours"))
    parser.add_argument("--texts", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    lines = (ROOT / "data/articles/first-600.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[: args.texts]]
    labels = [i % 32 for i in range(len(texts))]
    if args.side:
        side = {"stock": stock, "ours": ours}[args.side]
        print(f"RESULT {side(texts, labels, 320)}")
        return
    speeds: dict[str, list[float]] = {"stock": [], "ours": []}
    for _ in range(args.rounds):
        for name in speeds:
            command = [sys.executable, __file__, "--side", name, "--texts", str(args.texts)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            speeds[name].append(float(out.rsplit("RESULT", 1)[1]))
    ratios = sorted(o / s for o, s in zip(speeds["ours"], speeds["stock"], strict=True))
    result: dict[str, Any] = {
        "texts": args.texts, "max_tokens": 320, "machine": platform.processor() or platform.machine(),
        "docs_per_second": speeds, "ratio_median": ratios[len(ratios) // 2], "ratios": ratios,
    }  # fmt: skip
    (ROOT / "benchmarks/training.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(
        f"ours / stock: {result['ratio_median']:.2f} (rounds: {', '.join(f'{r:.2f}' for r in ratios)})"
    )


if __name__ == "__main__":
    main()
