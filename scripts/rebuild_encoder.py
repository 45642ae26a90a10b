"""Rebuild models/encoder from its recipe: `python scripts/rebuild_encoder.py --recipe FOLDER`.

FOLDER holds teacher.npz (the 12-layer teacher with the cut vocabulary) and text.xz (one document a
line); the recipe itself is described in models/encoder/README.md. At full size it is a matter of
minutes on a large GPU and of weeks on a CPU; `--steps 3 --documents 50 --tokens-per-step 1024` shows
on any machine that it runs. A killed run goes on when started again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from presseco.encoder import load_tokenizer
from presseco.errors import ConfigError
from presseco.files import replacing, write_text
from presseco.progress import progress
from presseco.states import autocast, device_for, use_bf16
from presseco.steps import take_steps

ROOT = Path(__file__).resolve().parent.parent
#: Length of the running-text blocks; every third step takes the short ones.
_LONG, _SHORT = 256, 64
#: Weights of the losses: hidden states of the last layer (the others 1), text vector, direction.
_LAST, _VECTOR, _DIRECTION = 3.0, 2.0, 2.0
_START, _END = 0, 2
_PARTS = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "fi": "intermediate.dense", "fo": "output.dense",
    "aln": "attention.output.LayerNorm", "oln": "output.LayerNorm",
}  # fmt: skip


def dequantise(blocks: Any, width: int) -> Any:
    """Return the float32 matrix (rows, width) of Q4_0 blocks: an fp16 scale, then 32 4-bit weights."""
    raw = np.asarray(blocks).reshape(-1, 18)
    scale = raw[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float32)
    return ((nibbles - 8) * scale).reshape(-1, width)


def teacher_weights(path: Path) -> dict[str, Tensor]:
    """Return the teacher's weights by the names that `CamembertModel` gives them."""
    width, out = 384, {}
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}

    def flat(name: str) -> Tensor:
        return torch.from_numpy(found[f"f:{name}"].astype(np.float32))

    def matrix(name: str, columns: int) -> Tensor:
        return torch.from_numpy(dequantise(found[f"q:{name}"], columns))

    out["embeddings.word_embeddings.weight"] = matrix("emb.word", width)
    # The type vector is added to every position, so it goes into the positions; two rows are unused.
    positions = flat("emb.pos").reshape(-1, width) + flat("emb.type").reshape(-1, width)[0]
    out["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros(2, width), positions])
    out["embeddings.token_type_embeddings.weight"] = torch.zeros(1, width)
    for ours, theirs in (("weight", "w"), ("bias", "b")):
        out[f"embeddings.LayerNorm.{ours}"] = flat(f"emb.ln.{theirs}")
    for i in range(12):
        for short, name in _PARTS.items():
            place = f"encoder.layer.{i}.{name}"
            norm = short.endswith("ln")
            columns = 4 * width if short == "fo" else width
            out[f"{place}.weight"] = (
                flat(f"l{i}.{short}.w") if norm else matrix(f"l{i}.{short}.w", columns)
            )
            out[f"{place}.bias"] = flat(f"l{i}.{short}.b")
    return out


def new_model(weights: dict[str, Tensor], layers: list[int]) -> Any:
    """Return a `CamembertModel` with the embeddings and the given layers of the teacher."""
    from transformers import CamembertConfig, CamembertModel

    config = CamembertConfig(
        vocab_size=24000, hidden_size=384, num_hidden_layers=len(layers), num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=514, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=_START, eos_token_id=_END,
    )  # fmt: skip
    model = CamembertModel(config, add_pooling_layer=False)
    own = {k: v for k, v in weights.items() if k.startswith("embeddings.")}
    for ours, theirs in enumerate(layers):
        head = f"encoder.layer.{theirs}."
        own |= {
            k.replace(head, f"encoder.layer.{ours}."): v
            for k, v in weights.items()
            if k.startswith(head)
        }
    model.load_state_dict(own)
    return model.eval()  # no dropout, in the student either


def taught_by(layers: int) -> list[int]:
    """Return the teacher layers (from 0) that the student's layers start from and answer to."""
    return [round((j + 1) * 12 / layers) - 1 for j in range(layers)]


def token_stream(recipe: Path, tokenizer: Any, documents: int, report: Any) -> Any:
    """Return the ids of the documents one after the other, uint16, without special tokens."""
    parts, texts = [], []
    tokenizer.no_truncation()
    with lzma.open(recipe / "text.xz", "rt", encoding="utf-8") as lines:
        for n, line in enumerate(lines, 1):
            texts.append(line.rstrip("\n").replace("\\n", "\n"))
            if len(texts) == 256 or n == documents:
                found = tokenizer.encode_batch(texts, add_special_tokens=False)
                parts += [np.array(e.ids, dtype=np.uint16) for e in found]
                texts = []
                report("documents tokenised", n, documents or 41_097)
            if n == documents:
                break
    found = tokenizer.encode_batch(texts, add_special_tokens=False) if texts else []
    return np.concatenate([*parts, *[np.array(e.ids, dtype=np.uint16) for e in found]])


@dataclass
class Lessons:
    """Blocks of running text, and the three losses of a student against the teacher."""

    stream: Any
    teacher: Any
    taught: list[int]
    bf16: bool
    tokens_a_step: int

    def blocks(self, count: int, length: int, rng: np.random.Generator) -> Tensor:
        """Return `count` blocks drawn at random: `<s>`, `length` - 2 tokens of text, `</s>`."""
        starts = rng.integers(0, len(self.stream) - length + 3, count)
        body = self.stream[starts[:, None] + np.arange(length - 2)].astype(np.int64)
        ends = [np.full((count, 1), _START), body, np.full((count, 1), _END)]
        return torch.from_numpy(np.concatenate(ends, axis=1))

    def step_loss(self, student: Any, step: int) -> Tensor:
        """Return the loss of a step's blocks, drawn by the step's number."""
        length = _SHORT if step % 3 == 2 else _LONG
        rng = np.random.default_rng((0, step))
        return self.losses(student, self.blocks(max(2, self.tokens_a_step // length), length, rng))[
            0
        ]

    def losses(self, student: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of blocks, and the mean centred cosine of the text vectors."""
        device = next(student.parameters()).device
        ids = ids.to(device)
        with autocast(self.bf16, device):
            with torch.no_grad():
                theirs = self.teacher(input_ids=ids, output_hidden_states=True).hidden_states[1:]
            ours = student(input_ids=ids, output_hidden_states=True).hidden_states[1:]
        total = torch.zeros((), device=device)
        weights = [1.0] * (len(ours) - 1) + [_LAST]
        for own, number, weight in zip(ours, self.taught, weights, strict=True):
            goal = theirs[number].float()[:, 1:]
            error = (own.float()[:, 1:] - goal).square().mean()
            total = total + weight * error / goal.square().mean()
        vector, goal = ours[-1].float()[:, 0], theirs[-1].float().mean(dim=1)
        total = total + _VECTOR * (vector - goal).square().mean() / goal.square().mean()
        cosine = functional.cosine_similarity(vector - vector.mean(0), goal - goal.mean(0)).mean()
        total = total + _DIRECTION * (1 - cosine)
        return total / (sum(weights) + _VECTOR + _DIRECTION), cosine

    @torch.no_grad()
    def measure(self, student: Any, blocks: int) -> dict[str, float]:
        """Return mean loss and cosine on long blocks that are the same for every student."""
        rng = np.random.default_rng(10**6)
        found = [
            [float(x) for x in self.losses(student, self.blocks(32, _LONG, rng))]
            for _ in range(max(1, blocks // 32))
        ]
        loss, cosine = np.mean(found, axis=0)
        return {"loss": float(loss), "cosine": float(cosine)}


def save(student: Any, tokenizer_folder: Path, output: Path, figures: dict[str, Any]) -> None:
    """Write the encoder folder: fp16 weights, tokenizer, notice, and rebuild.json."""
    with replacing(output) as new:
        student.half().save_pretrained(new)
        declared = json.loads((new / "config.json").read_text("utf-8")) | {"dtype": "float32"}
        write_text(new / "config.json", json.dumps(declared, indent=1, sort_keys=True) + "\n")
        for name in ("tokenizer.json", "tokenizer_config.json", "NOTICE"):
            shutil.copy(tokenizer_folder / name, new)
        write_text(new / "rebuild.json", json.dumps(figures, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, required=True, help="folder of teacher.npz, text.xz")
    parser.add_argument("--output", type=Path, default=ROOT / "build/encoder")
    parser.add_argument("--steps", type=int, default=2789)
    parser.add_argument("--tokens-per-step", type=int, default=131_072)
    parser.add_argument("--layers", type=int, default=6, choices=(2, 3, 4, 6, 8, 12))
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--documents", type=int, default=0, help="0: all")
    parser.add_argument("--held-out", type=int, default=1024, help="blocks to measure on")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--measure", type=Path, help="only measure this encoder folder")
    args = parser.parse_args()
    for name in ("teacher.npz", "text.xz"):
        if not (args.recipe / name).is_file():
            raise SystemExit(str(ConfigError(f"{args.recipe}: {name} is missing; see --help")))
    device, console = device_for(), Console()
    weights = teacher_weights(args.recipe / "teacher.npz")
    taught = taught_by(args.layers)
    with progress(console, "encoder") as report:
        home = ROOT / "models/encoder"
        stream = token_stream(args.recipe, load_tokenizer(home), args.documents, report)
        teacher = new_model(weights, list(range(12))).to(device)
        bf16 = use_bf16(args.precision, device)
        lessons = Lessons(stream, teacher, taught, bf16, args.tokens_per_step)
        if args.measure:
            from transformers import CamembertModel

            made = CamembertModel.from_pretrained(
                args.measure, add_pooling_layer=False, dtype="float32", local_files_only=True
            )
            lessons.taught = taught_by(made.config.num_hidden_layers)
            console.print(lessons.measure(made.to(device).eval(), args.held_out))
            return
        student = new_model(weights, taught).to(device)
        before = lessons.measure(student, args.held_out)
        settings = {k: v for k, v in vars(args).items() if not isinstance(v, Path)}
        key = hashlib.sha256(json.dumps([settings, len(stream)]).encode()).hexdigest()[:10]
        work = ROOT / "build/rebuild" / key
        take_steps(
            dict(student.named_parameters()), lambda step: lessons.step_loss(student, step),
            total=args.steps, rate=args.rate, warmup=0.03, folder=work,
            on_step=lambda step, loss: report(f"loss {loss:.4f}", step, args.steps),
        )  # fmt: skip
        after = lessons.measure(student, args.held_out)
        figures = {"before": before, "after": after, "tokens": len(stream), **settings}
        save(student, home, args.output, figures)
        shutil.rmtree(work, ignore_errors=True)
    console.print(f"loss {before['loss']:.4f} -> {after['loss']:.4f}, encoder in {args.output}")


if __name__ == "__main__":
    main()
