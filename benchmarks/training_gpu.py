"""Training speed of the camembert-base shape on a GPU: `python benchmarks/training_gpu.py`.

Random weights and random tokens, every document 256 tokens, three tasks, AdamW. Ours is the
fine-tuning of `make train` (`presseco.camembert.fine_tune`) in bf16, nothing frozen; stock is
transformers' Trainer with its defaults, fp32, batches of 16. One process after the other. Model FLOPs
utilisation counts 6 FLOPs a weight and token and 12 x layers x width x tokens^2 for attention (Chowdhery
et al. 2022, PaLM, appendix B), the embeddings' look-up none, over the device's dense bf16 peak.
Needs CUDA and the extra `bench`. Writes benchmarks/training_gpu.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Dense bf16 peak in FLOP/s by a word of the device's name, from NVIDIA's data sheets (SXM).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
TASKS = [
    ["sector", list("abcdefghijklmn")],
    ["event", list("abcdefghijklmno")],
    ["mood", list("abc")],
]
#: camembert-base: 12 layers of 768; transformers' own defaults for this class are another shape.
SHAPE = {
    "vocab_size": 32005, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 5, "eos_token_id": 6,
}  # fmt: skip


def new_model(shape: dict[str, Any], **more: Any) -> Any:
    """Return a classifier of a shape with random weights."""
    import torch
    from transformers import CamembertConfig, CamembertForSequenceClassification

    torch.manual_seed(0)
    width = sum(len(labels) for _, labels in TASKS)
    config = CamembertConfig(num_labels=width, **shape, **more)
    return CamembertForSequenceClassification(config)


def documents(n: int, tokens: int, shape: dict[str, Any]) -> tuple[list[list[int]], Any]:
    """Return `n` documents of `tokens` random token ids, and random labels (documents, tasks)."""
    import numpy as np

    rng = np.random.default_rng(0)
    ids = rng.integers(10, shape["vocab_size"], (n, tokens))
    ids[:, 0], ids[:, -1] = shape["bos_token_id"], shape["eos_token_id"]
    labels = np.stack([rng.integers(0, len(y), n) for _, y in TASKS], axis=1)
    return ids.tolist(), labels


def ours(shape: dict[str, Any], n: int, tokens: int, batch: int, device: str) -> float:
    """Return documents a second of one epoch of our fine-tuning, after one as a warm-up."""
    import torch

    from presseco.camembert import fine_tune
    from presseco.config import read_config
    from presseco.states import Inputs

    settings = read_config(ROOT / "configs/experiment/camembert-mini.yaml").camembert.model_copy(
        update={
            "epochs": 2, "patience": 2, "batch_size": batch, "frozen_layers": 0,
            "token_dropout": 0.0, "precision": "bf16", "checkpoint_seconds": 1e9,
        }
    )  # fmt: skip
    model = new_model(shape, attention_probs_dropout_prob=0.0).to(device)
    ids, labels = documents(n, tokens, shape)
    few = Inputs(ids[:8], None, [])
    steps: list[float] = []

    def on_step(step: int, total: int) -> None:
        if step in (total // 2, total):
            if device == "cuda":
                torch.cuda.synchronize()
            steps.append(time.perf_counter())

    starts: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        fine_tune(
            model, Inputs(ids, None, []), labels, few, labels[:8], task_map=TASKS, config=settings,
            seed=0, folder=Path(work), on_step=on_step,
            on_epoch=lambda epoch, metrics: starts.append(time.perf_counter()),
        )  # fmt: skip
    # From the end of the first epoch (weights on disk follow, and count) to the last step.
    return n / (steps[1] - starts[0])


def stock(shape: dict[str, Any], n: int, tokens: int, batch: int, device: str) -> float:
    """Return documents a second of `Trainer` over one epoch: fp32, batches of 16."""
    import torch
    from torch.nn import functional
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ids, labels = documents(n, tokens, shape)
    rows = [
        {"input_ids": i, "attention_mask": [1] * tokens, "labels": y}
        for i, y in zip(ids, labels.tolist(), strict=True)
    ]
    widths = [len(y) for _, y in TASKS]
    clock: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (2, state.max_steps):
                if device == "cuda":
                    torch.cuda.synchronize()
                clock.append(time.perf_counter())

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        parts = outputs.logits.split(widths, dim=1)
        return sum(functional.cross_entropy(p, labels[:, t]) for t, p in enumerate(parts))

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, per_device_train_batch_size=16, num_train_epochs=1, save_strategy="no",
            report_to="none", disable_tqdm=True, use_cpu=device == "cpu",
        )  # fmt: skip
        Trainer(
            new_model(shape), arguments, train_dataset=rows, compute_loss_func=loss,
            callbacks=[Clock()],
        ).train()  # fmt: skip
    return (n - 2 * 16) / (clock[1] - clock[0])


def flops_per_document(shape: dict[str, Any], tokens: int) -> float:
    """Return the FLOPs of one document's forward and backward pass that training cannot do without.

    The last layer needs keys and values of all tokens, the rest of `<s>` alone (`first_token`).
    """
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    weights = (layers - 1) * (4 * width**2 + 2 * width * shape["intermediate_size"]) + 2 * width**2
    return float(6 * weights * tokens + 12 * (layers - 1) * width * tokens**2)


def main() -> None:
    """Run both sides in processes of their own and write speeds, ratio and utilisation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=("stock", "ours"), help="one side, in this process")
    parser.add_argument("--documents", type=int, default=16384)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128, help="ours; stock keeps its 16")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/training_gpu.json")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit(
            "training_gpu.py: no CUDA device (torch "
            f"{torch.__version__}). This benchmark runs on a GPU only; install the CUDA build of torch "
            "there. benchmarks/training.py is the one for a CPU."
        )
    if args.side:
        side = {"stock": stock, "ours": ours}[args.side]
        n = args.documents if args.side == "ours" else max(args.documents // 8, 64)
        print(f"RESULT {side(SHAPE, n, args.tokens, args.batch, 'cuda')}")
        return
    speeds = {}
    for name in ("stock", "ours"):
        sizes = ["--documents", str(args.documents), "--tokens", str(args.tokens)]
        command = [sys.executable, __file__, "--side", name, *sizes, "--batch", str(args.batch)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            sys.exit(f"{name}: {child.stderr.strip()[-1500:]}")
        speeds[name] = float(child.stdout.rsplit("RESULT", 1)[1])
    device = torch.cuda.get_device_name()
    peak = next((p for word, p in PEAKS.items() if word in device), None)
    rate = speeds["ours"] * flops_per_document(SHAPE, args.tokens)
    summary = {
        "device": device, "tokens": args.tokens, "batch": args.batch,
        "documents": args.documents, "docs_per_second": speeds,
        "ratio": speeds["ours"] / speeds["stock"], "teraflops": rate / 1e12,
        "model_flops_utilisation": rate / peak if peak else None,
    }  # fmt: skip
    args.output.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
