"""Ordinary label shares: a corpus that fills every cell of a grid is no sample of the press.

Good results, contracts and products are as frequent in it as by order, not as in a newspaper. Some
writers were given subjects and no labels: their shares stand for ordinary press. Adding part of
log(ordinary share / corpus share) to the logits moves a model from one to the other (Saerens et al.
2002, where the shares are known); it is stored in the head's bias, so every service has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from presseco.evaluate import Floats
from presseco.examples import Examples
from presseco.taxonomy import slices

#: Articles that the corpus share counts for in the ordinary one: few articles move little.
_STRENGTH = 30.0


def log_ratios(train: Examples, task_map: list[list[Any]], writers: list[str]) -> Floats | None:
    """Return log(ordinary share / share) of the labels, flat as the logits.

    Ordinary is what `writers` wrote; None when there is nothing by them.
    """
    ordinary = np.isin(np.array(train.writers, dtype=object), writers)
    if not ordinary.any():
        return None
    out = []
    for t, s in enumerate(slices(task_map)):
        labels = train.labels[:, t]
        size = s.stop - s.start
        # One article of each label: a label that train has none of must not divide by zero.
        share = np.bincount(labels[labels >= 0], minlength=size) + 1.0
        share /= share.sum()
        own = labels[ordinary & (labels >= 0)]
        there = np.bincount(own, minlength=size) + _STRENGTH * share
        out.append(np.log(there / there.sum()) - np.log(share))
    return np.concatenate(out)


@torch.no_grad()
def shift_head(head: Any, ratios: Floats, part: float) -> None:
    """Add `part` of the log ratios to the bias of a classification head, in place."""
    bias = head.out_proj.bias
    bias += torch.as_tensor(part * ratios, dtype=bias.dtype, device=bias.device)
