"""Where a fine-tuning stands, on disk: a killed run goes on from here, to the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from presseco.steps import moments, restore, write_tensors


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


def save_checkpoint(
    folder: Path, state: Progress, trained: Any, average: dict[str, Tensor], optimizer: Any
) -> None:
    """Write weights, average, optimizer and progress to one file of `folder`, atomically."""
    tensors = {f"weight.{n}": p.detach() for n, p in trained.items()}
    tensors |= {f"average.{n}": p for n, p in average.items()}
    tensors |= moments(optimizer)
    write_tensors(folder / "checkpoint.safetensors", tensors, {"progress": json.dumps(vars(state))})


def resume(
    folder: Path, trained: dict[str, Any], average: dict[str, Tensor], optimizer: Any
) -> Progress:
    """Load the checkpoint of `folder` into weights, average and optimizer, if there is one."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as f:
        state = Progress(**json.loads(f.metadata()["progress"]))
    state.resumed = state.step
    restore(load_file(path), {"weight": trained, "average": average}, optimizer)
    return state
