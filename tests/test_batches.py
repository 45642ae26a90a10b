"""Batches: every text once, of similar length, the same for the same seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from presseco.batches import length_batches, padding_share

LENGTHS = st.lists(st.integers(3, 500), max_size=300)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5))
def test_every_text_once_and_no_batch_too_large(lengths, size, seed):
    batches = length_batches(lengths, size, seed)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert all(1 <= len(b) <= size for b in batches)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5))
def test_as_few_batches_as_can_be(lengths, size, seed):
    """The number of steps an epoch: the learning-rate schedule and the resume count on it."""
    assert len(length_batches(lengths, size, seed)) == -(-len(lengths) // size)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5))
def test_order_depends_on_the_seed_only(lengths, size, seed):
    assert length_batches(lengths, size, seed) == length_batches(lengths, size, seed)


def test_another_epoch_is_another_order():
    lengths = list(range(3, 1003))
    first, second = (length_batches(lengths, 16, seed) for seed in (1000, 1001))
    assert first != second
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}


def test_padding_is_little():
    lengths = np.random.default_rng(0).integers(20, 320, 2000).tolist()
    rng = np.random.default_rng(1).permutation(2000).tolist()
    plain = [rng[i : i + 16] for i in range(0, 2000, 16)]
    assert padding_share(lengths, plain) > 0.35
    assert padding_share(lengths, length_batches(lengths, 16, 0)) < 0.06


def test_padding_share_by_hand():
    assert padding_share([2, 4, 4], [[0, 1], [2]]) == 1 - 10 / 12
    assert padding_share([], []) == 0.0
