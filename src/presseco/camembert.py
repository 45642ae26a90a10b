"""Fine-tune one CamembertForSequenceClassification on all tasks at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from presseco import processes
from presseco.batches import length_batches
from presseco.config import CamembertConfig
from presseco.errors import ConfigError
from presseco.evaluate import Ints, mean_macro_f1
from presseco.files import replacing
from presseco.states import Inputs, autocast, collate, predict_logits, upper, use_bf16
from presseco.taxonomy import MISSING, OUTSIDE, slices

OnEpoch = Callable[[int, dict[str, float]], None]
OnStep = Callable[[int, int], None]


@dataclass
class Progress:
    """Where training stands; saved with the weights so that a killed run goes on from here.

    `resumed` is the step that this process began with.
    """

    step: int = 0
    resumed: int = 0
    best_score: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def fine_tune(
    model: Any,
    train: Inputs,
    labels: Ints,
    validation: Inputs,
    truth: Ints,
    *,
    task_map: list[list[Any]],
    config: CamembertConfig,
    seed: int,
    folder: Path,
    guide: Callable[[Tensor, list[int]], Tensor] | None = None,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    on_step: OnStep = lambda step, total: None,
) -> Progress:
    """Train `model` in place and leave the best averaged weights in it.

    `labels` and `truth` have shape (texts, tasks), `MISSING` where a label is unknown. `folder`
    holds the checkpoints; a run started again with the same arguments goes on where it was and ends
    with the same weights on the same machine. Several processes share each batch (`processes`).
    `guide` adds to the loss of a batch, given its logits and its texts' numbers (`distil`).
    """
    device = next(model.parameters()).device
    bf16 = use_bf16(config.precision, device)
    freeze(model, config.frozen_layers)
    processes.spread(model.parameters())
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(_groups(model, config), betas=(0.9, 0.98), eps=1e-6)
    average = {n: p.detach().clone() for n, p in trained.items()}
    weights = class_weights(labels, task_map, config.class_balance, device)
    state = _resume(folder, trained, average, optimizer)
    for number, metrics in enumerate(state.history, 1):
        on_epoch(number, metrics)
    per_epoch = -(-len(train.ids) // config.batch_size)
    total = per_epoch * config.epochs
    saved = time.monotonic()
    model.train()
    for epoch in range(state.step // per_epoch, config.epochs):
        if len(state.history) - 1 - state.best_epoch >= config.patience:
            break
        batches = length_batches(train.lengths, config.batch_size, seed * 1000 + epoch)
        for rows in batches[state.step - epoch * per_epoch :]:
            # Dropout depends on seed and step only, so a resumed run draws the same masks.
            torch.manual_seed(seed * 1_000_003 + state.step + (processes.rank() << 40))
            _set_rates(optimizer, _schedule(state.step, total, config.warmup))
            keep = _token_dropout(train, rows, config.token_dropout, seed, state.step)
            own = processes.part(len(rows))
            batch, mask = collate(
                train, rows[own], model.config.pad_token_id, keep[own] if keep else None
            )
            with autocast(bf16, device):
                hidden = upper(model, batch.to(device), mask.to(device), config.frozen_layers)
                logits = model.classifier(hidden)
            logits = processes.gather(logits.float(), len(rows))
            loss = multi_task_loss(
                logits, labels[rows], task_map, weights, config.label_smoothing
            ) + config.outside_weight * outside_loss(logits, labels[rows], task_map)
            if guide is not None:
                loss = loss + guide(logits, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            processes.sum_gradients(trained.values())
            torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _update(average, trained, config.average, state.step)
            state.step += 1
            on_step(state.step, total)
            # Not after an epoch's last step: validation belongs to it, and its end saves anyway.
            if state.step % per_epoch and time.monotonic() - saved > config.checkpoint_seconds:
                _save(folder, state, trained, average, optimizer)
                saved = time.monotonic()
        with _Swapped(trained, average):
            logits_v = predict_logits(
                model, validation, frozen_layers=config.frozen_layers, bf16=bf16
            )
            score = processes.agree(mean_macro_f1(task_map, logits_v, truth))
            if score > state.best_score:
                state.best_score, state.best_epoch = score, epoch
                _write(folder / "best.safetensors", {n: p.detach() for n, p in trained.items()})
        metrics = {"train.loss": float(loss.detach()), "validation.macro_f1": score}
        state.history.append(metrics)
        on_epoch(epoch + 1, metrics)
        _save(folder, state, trained, average, optimizer)
        saved = time.monotonic()
    if processes.first():
        best = load_file(folder / "best.safetensors")
        with torch.no_grad():
            for n, p in trained.items():
                p.copy_(best[n])
    processes.spread(trained.values())
    model.eval()
    return state


def freeze(model: Any, layers: int) -> None:
    """Stop gradients of the embeddings (if any layer is frozen) and of the first `layers` layers."""
    found = len(model.roberta.encoder.layer)
    if layers > found:
        raise ConfigError(
            f"camembert.frozen_layers is {layers}, but the encoder has {found} layers"
        )
    frozen = [model.roberta.embeddings, *model.roberta.encoder.layer[:layers]] if layers else []
    for module in frozen:
        module.requires_grad_(False)


def class_weights(
    labels: Ints, task_map: list[list[Any]], power: float, device: torch.device
) -> list[Tensor]:
    """Return one weight vector a task: (share of the class)^-power, normalised to mean 1."""
    out = []
    for t, s in enumerate(slices(task_map)):
        known = labels[:, t][labels[:, t] >= 0]
        share = np.bincount(known, minlength=s.stop - s.start) / max(len(known), 1)
        w = np.maximum(share, 1e-3) ** -power
        out.append(torch.tensor(w / w.mean(), dtype=torch.float32, device=device))
    return out


def multi_task_loss(
    logits: Tensor, labels: Ints, task_map: list[list[Any]], weights: list[Tensor], smoothing: float
) -> Tensor:
    """Return the sum of the tasks' cross-entropies; missing labels count for nothing.

    A batch in which a task has no label at all adds 0 for it (the mean of nothing would be NaN).
    """
    total = logits.sum() * 0.0
    for t, s in enumerate(slices(task_map)):
        known = np.where(labels[:, t] >= 0, labels[:, t], MISSING)
        target = torch.as_tensor(known, device=logits.device)
        if (target != MISSING).any():
            total = total + functional.cross_entropy(
                logits[:, s.start : s.stop],
                target,
                weight=weights[t],
                label_smoothing=smoothing,
                ignore_index=MISSING,
            )
    return total


def outside_loss(logits: Tensor, labels: Ints, task_map: list[list[Any]]) -> Tensor:
    """Return the cross-entropy to uniform answers of the texts that are no business news.

    "Outlier exposure", Hendrycks et al. 2019: a model that has seen texts without an answer gives
    low confidence on others like them. The sum is over tasks, the mean over the batch.
    """
    outside = torch.as_tensor(labels[:, 0] == OUTSIDE, device=logits.device)
    total = logits.sum() * 0.0
    if outside.any():
        for s in slices(task_map):
            rows = functional.log_softmax(logits[outside, s.start : s.stop], dim=-1)
            total = total - rows.mean(dim=-1).sum() / len(labels)
    return total


def _groups(model: Any, config: CamembertConfig) -> list[dict[str, Any]]:
    """Return optimizer groups: the head at its own rate, each layer at the rate above x decay."""
    layers = model.roberta.encoder.layer
    modules = [(model.classifier, config.head_learning_rate)]
    for depth, layer in enumerate(reversed(layers)):
        modules.append((layer, config.learning_rate * config.layer_decay**depth))
    modules.append(
        (model.roberta.embeddings, config.learning_rate * config.layer_decay ** len(layers))
    )
    groups = []
    for module, rate in modules:
        for decayed in (True, False):  # biases and layer norms are not decayed
            params = [
                p for p in module.parameters() if p.requires_grad and (p.dim() > 1) == decayed
            ]
            if params:
                decay = config.weight_decay if decayed else 0.0
                groups.append({"params": params, "lr": rate, "peak": rate, "weight_decay": decay})
    return groups


def _schedule(step: int, total: int, warmup: float) -> float:
    """Return the share of the peak rate: linear up over `warmup`, then linear to zero."""
    rise = max(1, int(total * warmup))
    return (step + 1) / rise if step < rise else max(0.0, (total - step) / max(1, total - rise))


def _set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def _token_dropout(
    inputs: Inputs, rows: list[int], rate: float, seed: int, step: int
) -> list[Any] | None:
    """Return the token positions that stay in each row; `<s>` and `</s>` always do."""
    if rate == 0:
        return None
    rng = np.random.default_rng((seed, step))
    keep = []
    for i in rows:
        stays = rng.random(len(inputs.ids[i])) >= rate
        stays[0] = stays[-1] = True
        keep.append(np.flatnonzero(stays))
    return keep


@torch.no_grad()
def _update(average: dict[str, Tensor], trained: dict[str, Any], rate: float, step: int) -> None:
    # The bias of the start is removed by averaging over fewer steps at first.
    rate = min(rate, (1 + step) / (10 + step))
    for n, p in trained.items():
        average[n].lerp_(p.detach(), 1 - rate)


class _Swapped:
    """Exchange the trained weights for their average while the block runs."""

    def __init__(self, trained: dict[str, Any], average: dict[str, Tensor]) -> None:
        self._trained, self._average = trained, average

    def __enter__(self) -> None:
        self._kept = {n: p.detach().clone() for n, p in self._trained.items()}
        self._fill(self._average)

    def __exit__(self, *error: object) -> None:
        self._fill(self._kept)

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for n, p in self._trained.items():
            p.copy_(values[n])


def _save(
    folder: Path, state: Progress, trained: Any, average: dict[str, Tensor], optimizer: Any
) -> None:
    tensors = {f"weight.{n}": p.detach() for n, p in trained.items()}
    tensors |= {f"average.{n}": p for n, p in average.items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in values.items()}
    _write(folder / "checkpoint.safetensors", tensors, {"progress": json.dumps(vars(state))})


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    if not processes.first():
        return
    with replacing(path) as temporary:
        try:
            save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, temporary, metadata)
        except SafetensorError as e:  # its name for a full disk
            raise OSError(str(e)) from e


def _resume(
    folder: Path, trained: dict[str, Any], average: dict[str, Tensor], optimizer: Any
) -> Progress:
    """Load the checkpoint of `folder` into weights, average and optimizer, if there is one."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as f:
        state = Progress(**json.loads(f.metadata()["progress"]))
    state.resumed = state.step
    tensors = load_file(path)
    moments: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "weight":
                trained[name].copy_(value)
            elif kind == "average":
                average[name].copy_(value)
            else:
                number, _, what = name.partition(".")
                moments.setdefault(int(number), {})[what] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return state
