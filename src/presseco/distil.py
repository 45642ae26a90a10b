"""Learn from a larger fine-tuned model: its soft labels and its `<s>` vectors (Hinton et al. 2015)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from presseco import processes
from presseco.batches import length_batches
from presseco.config import Config, DistilConfig
from presseco.encoder import FILES, load_tokenizer
from presseco.errors import ConfigError, EncoderError
from presseco.progress import Report
from presseco.states import Inputs, all_tokens, autocast, collate, device_for, use_bf16
from presseco.steps import write_tensors
from presseco.taxonomy import slices
from presseco.text import prepare

OnTexts = Callable[[int, int], None]
#: Strength of the ridge regression that maps student vectors to teacher vectors, as a share of the
#: student vectors' mean variance: enough to be stable with fewer texts than dimensions.
_RIDGE = 0.1


@dataclass(frozen=True)
class Teacher:
    """A fine-tuned classifier to learn from, its tokenizer, and how many tokens it reads."""

    model: Any
    tokenizer: Any
    max_tokens: int


def checkpoint(path: Path) -> Path:
    """Return the folder of a bundle that holds its weights as transformers reads them, or `path`.

    Raises `ConfigError` when it is neither.
    """
    folder = path / "hf" if (path / "hf").is_dir() else path
    if not all((folder / name).is_file() for name in FILES):
        raise ConfigError(
            f"distil.teacher: {path} is no bundle and no checkpoint; expected a folder such as "
            f"dist/camembert, or one with {', '.join(FILES)}"
        )
    return folder


def load_teacher(path: Path, task_map: list[list[Any]]) -> Teacher:
    """Load a bundle (its `hf` folder) or a checkpoint that `make train` made.

    Raises `ConfigError` when it answers other questions than the taxonomy asks.
    """
    from transformers import CamembertForSequenceClassification

    folder = checkpoint(path)
    declared = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if declared.get("task_map") != task_map:
        theirs = [task for task, _ in declared.get("task_map") or []] or "none"
        raise ConfigError(
            f"distil.teacher: {path} has the tasks {theirs}, not the labels of this taxonomy: "
            f"{[task for task, _ in task_map]}. Fine-tune it on this taxonomy first."
        )
    model, info = CamembertForSequenceClassification.from_pretrained(
        folder, dtype="float32", output_loading_info=True, local_files_only=True
    )
    if info["missing_keys"]:
        raise EncoderError(f"{folder}: weights are missing, e.g. {sorted(info['missing_keys'])[0]}")
    bundle = path / "bundle.json"
    room = int(declared["max_position_embeddings"]) - 2
    if bundle.is_file():
        room = int(json.loads(bundle.read_text(encoding="utf-8"))["text"]["max_tokens"])
    return Teacher(model.to(device_for()).eval(), load_tokenizer(folder), room)


@torch.no_grad()
def watch(
    model: Any, ids: list[list[int]], layers: Sequence[int], bf16: bool, on_texts: OnTexts
) -> tuple[Tensor, list[Tensor]]:
    """Return a classifier's logits, and the `<s>` vectors after `layers`, shape (texts, hidden)."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    plain, done = Inputs(ids, None, []), 0
    logits = torch.zeros(len(ids), model.config.num_labels)
    vectors = [torch.zeros(len(ids), model.config.hidden_size) for _ in layers]
    for rows in length_batches(plain.lengths, 32, seed=0):
        batch, mask = (x.to(device) for x in collate(plain, rows, model.config.pad_token_id))
        with autocast(bf16, device):
            hidden = model.roberta.embeddings(input_ids=batch)
            for n, layer in enumerate(model.roberta.encoder.layer):
                hidden = all_tokens(layer, hidden, mask[:, None, None, :])
                for into, wanted in zip(vectors, layers, strict=True):
                    if wanted == n:
                        into[rows] = hidden[:, 0].float().cpu()
            logits[rows] = model.classifier(hidden).float().cpu()
        done += len(rows)
        on_texts(done, len(ids))
    model.train(was_training)
    return logits, vectors


def matched_layers(student: int, teacher: int, frozen: int) -> list[tuple[int, int]]:
    """Return the pairs of a trained student layer and its teacher layer at the same relative depth."""
    return [(j, max(0, round((j + 1) * teacher / student) - 1)) for j in range(frozen, student)]


class Guide:
    """What the teacher adds to the loss of a batch. `fine_tune` calls it with logits and rows.

    Soft labels: cross-entropy to the teacher's probabilities at the temperature, less their entropy
    (so 0 when equal), times temperature squared. Vectors: after each trained layer the student's `<s>`
    vector, mapped linearly to the teacher's width, against the teacher's: squared error over the
    teacher's variance. The map is fitted once, by ridge regression on the untrained student.
    """

    def __init__(
        self, model: Any, config: DistilConfig, task_map: list[list[Any]], logits: Tensor
    ) -> None:
        self._slices, self._config = slices(task_map), config
        self._logits = logits
        self._goals: list[tuple[int, Tensor, Tensor, float]] = []
        self._seen: dict[int, Tensor] = {}
        self._layers = model.roberta.encoder.layer
        self._hooks: list[Any] = []

    def match(self, layer: int, own: Tensor, theirs: Tensor) -> None:
        """Add vectors to match: the untrained student's `own` after `layer`, the teacher's."""
        weight = _ridge(own, theirs)
        self._goals.append((layer, theirs, weight, float(theirs.var(dim=0).sum()) + 1e-9))

        def keep(module: Any, inputs: Any, output: Tensor) -> None:
            self._seen[layer] = output[:, 0]

        self._hooks.append(self._layers[layer].output.register_forward_hook(keep))

    def close(self) -> None:
        """Let go of the model: an export must not see the hooks."""
        for hook in self._hooks:
            hook.remove()

    def __call__(self, logits: Tensor, rows: list[int]) -> Tensor:
        """Return the teacher's part of the loss of the batch that has just been computed."""
        heat = self._config.temperature
        goal = self._logits[rows].to(logits.device)
        total = logits.sum() * 0.0
        for s in self._slices:
            soft = functional.log_softmax(goal[:, s.start : s.stop] / heat, dim=-1)
            own = functional.log_softmax(logits[:, s.start : s.stop] / heat, dim=-1)
            distance = functional.kl_div(own, soft, log_target=True, reduction="batchmean")
            total = total + self._config.weight * heat**2 * distance
        for layer, theirs, weight, variance in self._goals:
            own = self._seen.pop(layer).float()
            wide = torch.cat([own, own.new_ones(len(own), 1)], dim=1) @ weight.to(own.device)
            error = (wide - theirs[rows].to(own.device)).square().sum(dim=1).mean() / variance
            total = total + self._config.hidden_weight * error / len(self._goals)
        return total


def _ridge(own: Tensor, theirs: Tensor) -> Tensor:
    """Return the linear map (width + 1, teacher's width) that best turns `own` into `theirs`."""
    x = torch.cat([own, own.new_ones(len(own), 1)], dim=1).double()
    strength = _RIDGE * float(own.var(dim=0).mean()) * len(own) / 100
    damp = torch.eye(x.shape[1], dtype=torch.float64) * strength
    damp[-1, -1] = 1e-9  # the constant is not shrunk
    found: Tensor = torch.linalg.solve(x.T @ x + damp, x.T @ theirs.double())
    return found.float()


def make_guide(
    config: Config,
    model: Any,
    ids: list[list[int]],
    texts: list[str],
    task_map: list[list[Any]],
    folder: Path,
    report: Report,
) -> Guide:
    """Ask the teacher about all texts, once (kept in `folder` for a run that goes on).

    `ids` are the student's tokens of `texts`; the teacher reads them with its own tokenizer.
    """
    settings = config.distil
    assert settings is not None

    def on_texts(done: int, total: int) -> None:
        report("teacher and student vectors", done, total)

    if processes.count() > 1:
        raise ConfigError("distil: runs in one process, without torchrun")
    bf16 = use_bf16(config.camembert.precision, device_for())
    teacher = load_teacher(config.path(settings.teacher), task_map)
    depth = teacher.model.config.num_hidden_layers
    pairs = matched_layers(
        model.config.num_hidden_layers, depth, min(config.camembert.frozen_layers, depth)
    )
    if not settings.hidden_weight:
        pairs = []
    kept = folder / "teacher.safetensors"
    if not kept.exists():
        logits, vectors = watch(
            teacher.model, _read(teacher, texts), [t for _, t in pairs], bf16, on_texts
        )
        write_tensors(kept, {"logits": logits} | {f"{i}": v for i, v in enumerate(vectors)})
    found = load_file(kept)
    guide = Guide(model, settings, task_map, found["logits"])
    _, own = watch(model, ids, [s for s, _ in pairs], bf16, on_texts)
    for i, (layer, _) in enumerate(pairs):
        guide.match(layer, own[i], found[f"{i}"])
    return guide


def _read(teacher: Teacher, texts: list[str]) -> list[list[int]]:
    teacher.tokenizer.enable_truncation(max_length=teacher.max_tokens)
    return [e.ids for e in teacher.tokenizer.encode_batch([prepare(t) for t in texts])]


def unlabelled_texts(config: Config, taxonomy: Any) -> list[str]:
    """Return the texts of `distil.texts`, none if it is null."""
    if config.distil is None or config.distil.texts is None:
        return []
    from presseco.unlabelled import read_texts

    return read_texts(config.path(config.distil.texts), taxonomy)[0]
