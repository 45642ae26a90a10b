"""What fine-tuning minimises: cross-entropy a task, and "no answer" on texts from outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from presseco.evaluate import Ints
from presseco.taxonomy import MISSING, OUTSIDE, slices


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
