"""Batches of similar length, in an order that depends on seed and epoch only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Batches whose articles are sorted by length together: larger pads less, smaller mixes more.
_POOL = 16


def length_batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Return batches of indices: shuffled, sorted by length in pools, batches shuffled again."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL].tolist(), key=lambda i: lengths[i])
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Return the share of computed positions that hold no token."""
    computed = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    return 1 - sum(lengths) / computed if computed else 0.0
