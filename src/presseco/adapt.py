"""Continue an encoder's pre-training on unlabelled articles: masked words (Devlin et al. 2019)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
import transformers
from rich.console import Console
from safetensors import safe_open

from presseco import tracking
from presseco.batches import length_batches
from presseco.config import Config
from presseco.encoder import load_tokenizer, locate
from presseco.errors import ConfigError
from presseco.files import replacing, write_text
from presseco.masked import Game, cut, load_masked
from presseco.points import encoder_digest
from presseco.progress import Report, progress
from presseco.states import device_for, use_bf16
from presseco.steps import take_steps
from presseco.taxonomy import read_taxonomy
from presseco.unlabelled import read_texts

#: Fewest steps of a new word head alone, for a folder so small that passes say little.
_HEAD_STEPS = 100


@dataclass(frozen=True)
class Settings:
    """How long and how fast; `head_epochs` is for a word head that the encoder came without."""

    epochs: int = 1
    head_epochs: float = 0.2
    rate: float = 1e-4
    head_rate: float = 1e-3
    batch_size: int = 32
    max_tokens: int = 256
    seed: int = 1
    checkpoint_seconds: float = 60.0


@dataclass(frozen=True)
class Adapted:
    """Held-out loss a hidden token, in nats: with a new head, when that is trained, at the end."""

    folder: Path
    texts: int
    tokens: int
    start: float
    before: float
    after: float


def adapt(config: Config, texts: Path, output: Path, settings: Settings) -> Adapted:
    """Adapt `camembert.encoder` to the articles in `texts`; write an encoder folder to `output`.

    A killed run goes on when started again with the same arguments. The word head is the
    encoder's own if it has one; else a new one (output weights tied to the word embeddings, bias
    from the words' frequencies) is trained first while the encoder stands still, so that its noise
    does not spoil the encoder.
    """
    console = Console()
    transformers.logging.set_verbosity_error()  # a new word head is told by us
    transformers.logging.disable_progress_bar()
    if (output / "config.json").exists() and not (output / "adapt.json").exists():
        raise ConfigError(f"{output}: holds an encoder that adapt did not write; choose another")
    source = locate(config.camembert.encoder, config.root)
    with progress(console, "adapt") as report:
        taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
        found, left_out = read_texts(texts, taxonomy, lambda n: report("texts read", n, n))
        console.print(f"{len(found):,} texts, left out: {dict(left_out) or 'none'}", markup=False)
        blocks = cut(load_tokenizer(source), found, settings.max_tokens, source)
        tracking.connect(config.root, config.tracking.experiment)
        with tracking.run(f"adapt · {texts.name}", tags={"purpose": "adapt"}):
            mlflow.log_params({**asdict(settings), "encoder": config.camembert.encoder})
            result = _adapt(config, source, blocks, len(found), output, settings, report)
            mlflow.log_metrics({k: float(getattr(result, k)) for k in ("start", "before", "after")})
    return result


def _adapt(
    config: Config,
    source: Path,
    blocks: tuple[list[list[int]], list[list[int]]],
    count: int,
    output: Path,
    settings: Settings,
    report: Report,
) -> Adapted:
    train, held = blocks
    tokens = sum(map(len, train))
    work = config.path("build/adapt") / _key(source, train, settings)
    torch.manual_seed(settings.seed)
    model, new_head = load_masked(source, train)
    model.to(device_for())
    game = Game(model, source, use_bf16(config.camembert.precision, device_for()))
    record = work / "losses.json"
    losses = json.loads(record.read_text("utf-8")) if record.exists() else {}

    def note(name: str) -> None:
        if name not in losses:  # a run that goes on has measured it already
            losses[name] = game.held_out_loss(held)
            write_text(record, json.dumps(losses))

    note("start")
    phases = [("words", 1.0 * settings.epochs, settings.rate, dict(model.named_parameters()))]
    if new_head:
        head = {n: p for n, p in model.named_parameters() if n.startswith("lm_head.")}
        a_pass = -(-len(train) // settings.batch_size)
        epochs = max(settings.head_epochs, _HEAD_STEPS / a_pass)
        phases.insert(0, ("head", epochs, settings.head_rate, head))
    for name, epochs, rate, parameters in phases:
        if name == "words":
            note("before")
        _phase(game, train, parameters, name, epochs, rate, work / name, settings, report)
    after = game.held_out_loss(held)
    result = Adapted(output, count, tokens, losses["start"], losses["before"], after)
    _write(model, source, result, settings)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _phase(
    game: Game,
    train: Sequence[Sequence[int]],
    parameters: dict[str, Any],
    name: str,
    epochs: float,
    rate: float,
    folder: Path,
    settings: Settings,
    report: Report,
) -> None:
    """Train some of the model's parameters on hidden words; the others stand still."""
    batches = _batches(train, epochs, settings)
    for n, p in game.model.named_parameters():
        p.requires_grad_(n in parameters)
    game.model.train()
    take_steps(
        parameters,
        lambda step: game.loss([train[i] for i in batches[step]], settings.seed * 10**6 + step),
        total=len(batches),
        rate=rate,
        warmup=0.06,
        folder=folder,
        seconds=settings.checkpoint_seconds,
        on_step=lambda step, loss: report(f"{name}, loss {loss:.2f}", step, len(batches)),
    )


def _key(source: Path, train: Sequence[Sequence[int]], settings: Settings) -> str:
    whole = hashlib.sha256(json.dumps([encoder_digest(source), asdict(settings)]).encode())
    for block in train:
        whole.update(np.asarray(block, dtype=np.int32).tobytes())
    return whole.hexdigest()[:12]


def _batches(train: Sequence[Sequence[int]], epochs: float, settings: Settings) -> list[list[int]]:
    """Return the batches of `epochs` passes; a part of a pass takes the first of its batches."""
    lengths, batches = [len(b) for b in train], []
    for epoch in range(-int(-epochs // 1)):
        some = length_batches(lengths, settings.batch_size, settings.seed * 1000 + epoch)
        batches += some[: max(1, round(len(some) * min(1.0, epochs - epoch)))]
    return batches


def _write(model: Any, source: Path, result: Adapted, settings: Settings) -> None:
    """Write the encoder folder: weights as wide as the source's, tokenizer, what was done."""
    with safe_open(source / "model.safetensors", "pt") as f:
        kind = f.get_slice(next(iter(f.keys()))).get_dtype()
    model.half() if kind == "F16" else model.float()
    figures = {k: v for k, v in asdict(result).items() if k != "folder"}
    with replacing(result.folder) as new:
        model.save_pretrained(new)
        for name in ("tokenizer.json", "tokenizer_config.json", "NOTICE"):
            if (source / name).exists():
                shutil.copy(source / name, new)
        # What it is loaded as, however it is stored.
        declared = json.loads((new / "config.json").read_text("utf-8")) | {"dtype": "float32"}
        write_text(new / "config.json", json.dumps(declared, indent=1, sort_keys=True) + "\n")
        note = {**figures, "settings": asdict(settings), "from": encoder_digest(source)}
        write_text(new / "adapt.json", json.dumps(note, indent=1) + "\n")
