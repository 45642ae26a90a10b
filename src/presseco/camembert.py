"""Fine-tune one CamembertForSequenceClassification on all tasks at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from presseco import processes
from presseco.batches import length_batches
from presseco.checkpoint import Progress, resume, save_checkpoint
from presseco.config import CamembertConfig
from presseco.errors import ConfigError, StoreError
from presseco.evaluate import Ints, mean_macro_f1
from presseco.loss import class_weights, multi_task_loss, outside_loss
from presseco.states import Inputs, autocast, collate, predict_logits, upper, use_bf16
from presseco.steps import write_tensors

OnEpoch = Callable[[int, dict[str, float]], None]
OnStep = Callable[[int, int], None]


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
    run = _Run(model, train, labels, task_map, config, seed, folder, guide)
    state = run.state
    for number, metrics in enumerate(state.history, 1):
        on_epoch(number, metrics)
    per_epoch = -(-len(train.ids) // config.batch_size)
    total = per_epoch * config.epochs
    model.train()
    for epoch in range(state.step // per_epoch, config.epochs):
        if len(state.history) - 1 - state.best_epoch >= config.patience:
            break
        batches = length_batches(train.lengths, config.batch_size, seed * 1000 + epoch)
        for rows in batches[state.step - epoch * per_epoch :]:
            loss = run.step(rows, _schedule(state.step, total, config.warmup))
            on_step(state.step, total)
            # Not after an epoch's last step: validation belongs to it, and its end saves anyway.
            if state.step % per_epoch and run.unsaved > config.checkpoint_seconds:
                run.save()
        score = run.validate(validation, truth, epoch)
        state.history.append({"train.loss": float(loss.detach()), "validation.macro_f1": score})
        on_epoch(epoch + 1, state.history[-1])
        run.save()
    run.take_best()
    model.eval()
    return state


class _Run:
    """A fine-tuning under way: weights, their average, the optimizer, and how far it has come."""

    def __init__(
        self,
        model: Any,
        train: Inputs,
        labels: Ints,
        task_map: list[list[Any]],
        config: CamembertConfig,
        seed: int,
        folder: Path,
        guide: Callable[[Tensor, list[int]], Tensor] | None,
    ) -> None:
        self._model, self._train, self._labels, self._task_map = model, train, labels, task_map
        self._config, self._seed, self._folder, self._guide = config, seed, folder, guide
        self._device = next(model.parameters()).device
        self._bf16 = use_bf16(config.precision, self._device)
        freeze(model, config.frozen_layers)
        processes.spread(model.parameters())
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(_groups(model, config), betas=(0.9, 0.98), eps=1e-6)
        self._average = {n: p.detach().clone() for n, p in self._trained.items()}
        self._weights = class_weights(labels, task_map, config.class_balance, self._device)
        self.state = resume(folder, self._trained, self._average, self._optimizer)
        if processes.agree(self.state.step) != self.state.step:
            raise StoreError(
                f"{folder}: process {processes.rank()} finds another checkpoint here than the first "
                "one. Put the project on a disk that all processes share."
            )
        self._saved = time.monotonic()

    @property
    def unsaved(self) -> float:
        """Return the seconds since the last checkpoint."""
        return time.monotonic() - self._saved

    def step(self, rows: list[int], share: float) -> Tensor:
        """Train on one batch at this share of the peak rates; return its loss."""
        # Dropout depends on seed and step only, so a resumed run draws the same masks.
        torch.manual_seed(self._seed * 1_000_003 + self.state.step + (processes.rank() << 40))
        _set_rates(self._optimizer, share)
        loss = self._loss(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        processes.sum_gradients(self._trained.values())
        torch.nn.utils.clip_grad_norm_(list(self._trained.values()), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        _update(self._average, self._trained, self._config.average, self.state.step)
        self.state.step += 1
        return loss

    def _loss(self, rows: list[int]) -> Tensor:
        config, labels = self._config, self._labels[rows]
        keep = _token_dropout(self._train, rows, config.token_dropout, self._seed, self.state.step)
        own = processes.part(len(rows))
        batch, mask = collate(
            self._train, rows[own], self._model.config.pad_token_id, keep[own] if keep else None
        )
        with autocast(self._bf16, self._device):
            hidden = upper(
                self._model, batch.to(self._device), mask.to(self._device), config.frozen_layers
            )
            logits = self._model.classifier(hidden)
        logits = processes.gather(logits.float(), len(rows))
        loss = multi_task_loss(
            logits, labels, self._task_map, self._weights, config.label_smoothing
        ) + config.outside_weight * outside_loss(logits, labels, self._task_map)
        return loss if self._guide is None else loss + self._guide(logits, rows)

    def validate(self, validation: Inputs, truth: Ints, epoch: int) -> float:
        """Return the averaged weights' mean macro-F1; keep them if they are the best so far."""
        with _Swapped(self._trained, self._average):
            logits = predict_logits(
                self._model,
                validation,
                frozen_layers=self._config.frozen_layers,
                bf16=self._bf16,
            )
            score = processes.agree(mean_macro_f1(self._task_map, logits, truth))
            if score > self.state.best_score:
                self.state.best_score, self.state.best_epoch = score, epoch
                if processes.first():
                    write_tensors(
                        self._folder / "best.safetensors",
                        {n: p.detach() for n, p in self._trained.items()},
                    )
        return score

    def save(self) -> None:
        """Write a checkpoint: the first process alone, all go on from it."""
        if processes.first():
            save_checkpoint(self._folder, self.state, self._trained, self._average, self._optimizer)
        self._saved = time.monotonic()

    def take_best(self) -> None:
        """Load the best averaged weights into the model, in every process."""
        if processes.first():
            best = load_file(self._folder / "best.safetensors")
            with torch.no_grad():
                for n, p in self._trained.items():
                    p.copy_(best[n])
        processes.spread(self._trained.values())


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
