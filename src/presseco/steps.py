"""A training of a fixed number of steps that a killed process goes on with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from presseco.files import replacing

#: Gradients longer than this are shortened to it.
_CLIP = 1.0


def take_steps(
    parameters: dict[str, Any],
    loss_of: Callable[[int], Tensor],
    *,
    total: int,
    rate: float,
    warmup: float,
    folder: Path,
    seconds: float = 60.0,
    weight_decay: float = 0.01,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> int:
    """Train `parameters` in place with AdamW for `total` steps; return the step it began with.

    `loss_of(step)` must depend on the step only (dropout is seeded here), so that a run that goes on
    from the checkpoint in `folder`, written every `seconds`, ends with the same weights. The rate
    rises over the share `warmup` of the steps, then falls linearly to zero.
    """
    wide = [p for p in parameters.values() if p.dim() > 1]
    flat = [p for p in parameters.values() if p.dim() <= 1]  # biases and norms are not decayed
    groups = [{"params": wide, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6)
    begin = _load(folder, parameters, optimizer)
    saved, rise = time.monotonic(), max(1, int(total * warmup))
    for step in range(begin, total):
        torch.manual_seed(step)
        share = (step + 1) / rise if step < rise else (total - step) / max(1, total - rise)
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        loss = loss_of(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), _CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step + 1, float(loss.detach()))
        if time.monotonic() - saved > seconds or step + 1 == total:
            _save(folder, step + 1, parameters, optimizer)
            saved = time.monotonic()
    return begin


def _save(folder: Path, step: int, parameters: dict[str, Any], optimizer: Any) -> None:
    tensors = {f"weight.{n}": p.detach() for n, p in parameters.items()}
    tensors |= moments(optimizer)
    write_tensors(folder / "checkpoint.safetensors", tensors, {"step": str(step)})


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors through a temporary file; a full disk is `StoreError`, the old file stays."""
    with replacing(path) as temporary:
        try:
            # A copy: tensors that share memory (tied weights) are refused otherwise.
            body = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
            save_file(body, temporary, metadata)
        except SafetensorError as e:  # its name for a full disk
            raise OSError(str(e)) from e


def _load(folder: Path, parameters: dict[str, Any], optimizer: Any) -> int:
    """Read the checkpoint into weights and optimizer; return its step, 0 without one."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as f:
        step = int(json.loads(f.metadata()["step"]))
    restore(load_file(path), {"weight": parameters}, optimizer)
    return step


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's moments by name, as `restore` takes them back."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{k}": v for i, values in state.items() for k, v in values.items()}


@torch.no_grad()
def restore(
    tensors: dict[str, Tensor],
    targets: dict[str, dict[str, Any]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Copy a checkpoint's `<kind>.<name>` tensors into `targets[kind][name]`, the rest into moments."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind in targets:
            targets[kind][name].copy_(value)
        else:
            number, _, what = name.partition(".")
            found.setdefault(int(number), {})[what] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": found})
