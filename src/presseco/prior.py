"""Ordinary label shares: a corpus that fills every cell of a grid is no sample of the press.

Good results, contracts and products are as frequent in it as by order, not as in a newspaper. Some
writers were given subjects and no labels: their shares stand for ordinary press. Adding part of
log(ordinary share / corpus share) to the logits moves a model from one to the other (Saerens et al.
2002, where the shares are known); it is stored in the head's bias, so every service has it.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from presseco.config import CamembertConfig
from presseco.evaluate import Floats
from presseco.examples import Examples
from presseco.taxonomy import slices

log = logging.getLogger("presseco")

#: Names that a warning lists.
_SHOWN = 5
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


def use_prior(
    head: Any, train: Examples, task_map: list[list[Any]], config: CamembertConfig
) -> str:
    """Shift a head as `camembert.prior_shift` says; return what was done, for the run's tag.

    Warns when it is asked for and train has nothing by `prior_writers`.
    """
    if not config.prior_shift:
        return "not applied: camembert.prior_shift is 0"
    ratios = log_ratios(train, task_map, config.prior_writers)
    if ratios is None:
        log.warning(
            "camembert.prior_shift is not applied: train has no article by camembert.prior_writers "
            "(%s), its writers are %s",
            _some(config.prior_writers),
            _some(sorted({w for w in train.writers if w})),
        )
        return "not applied: train has no article by camembert.prior_writers"
    shift_head(head, ratios, config.prior_shift)
    found = sum(w in config.prior_writers for w in train.writers)
    return f"applied: {config.prior_shift:g} of the log ratios, from {found} articles"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
