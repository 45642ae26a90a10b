"""Training in several processes: torchrun's ranks share every batch, the first of them writes.

Each rank computes the logits of its part of the batch. The logits are small, so all ranks gather all
of them and compute the loss of the whole batch, whatever it is; each sends gradients back through its
own part, and the parts are summed. So the step is that of one process, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

#: Ranks wait for the first one while it trains other models, evaluates and exports.
_PATIENCE = timedelta(hours=24)


def count() -> int:
    """Return the number of processes that train together (1 without torchrun)."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def rank() -> int:
    """Return this process' number, from 0."""
    return distributed.get_rank() if count() > 1 else 0


def first() -> bool:
    """Return whether this process writes, logs and exports."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun or accelerate started: NCCL on GPUs, gloo on CPUs."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if gpu else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def train_together(experiments: Sequence[str], overrides: Sequence[str]) -> None:
    """Train as `make train` does; ranks but the first only help with the fine-tuning."""
    from presseco.experiments import read_experiments
    from presseco.train import train

    with joined():
        configs = read_experiments(experiments, overrides)
        if first():
            from presseco.corpus import build_corpus

            build_corpus(configs[0])
            distributed.barrier()
            train(experiments, overrides)
        else:
            distributed.barrier()
            _follow(configs)
        distributed.barrier()


def _follow(configs: Sequence[Any]) -> None:
    """Take part in the fine-tuning of every experiment that has one; write and log nothing."""
    import transformers

    from presseco.corpus import build_corpus
    from presseco.examples import load_data
    from presseco.fit import fit
    from presseco.points import point_key
    from presseco.work import work_folder

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    corpus, _ = build_corpus(configs[0])
    data = load_data(corpus)
    for config in configs:
        if config.kind == "camembert":
            # The first rank's: the checkpoint to go on from.
            folder = work_folder(config, point_key(config, data))
            fit(config, data, folder, lambda *_: None, lambda *_: None)


def part(rows: int) -> slice:
    """Return which of a batch's rows are this process' own; never none, see `gather`."""
    start, stop = _bounds(rows)[rank()]
    return slice(start, stop) if stop > start else slice(0, 1)


def _bounds(rows: int) -> list[tuple[int, int]]:
    n = count()
    return [(rows * i // n, rows * (i + 1) // n) for i in range(n)]


def gather(own: Tensor, rows: int) -> Tensor:
    """Return all ranks' rows of a batch in order, shape (rows, width); only `own` has gradients.

    A rank without a row of its own computed the first one, for company: it counts for nothing.
    """
    if count() == 1:
        return own
    sizes = [stop - start for start, stop in _bounds(rows)]
    padded = own.new_zeros(max(sizes), own.shape[1])
    own = own[: sizes[rank()]]
    padded[: len(own)] = own.detach()
    every = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(every, padded)
    parts = [rows_of[:size] for rows_of, size in zip(every, sizes, strict=True)]
    parts[rank()] = own
    return torch.cat(parts)


def sum_gradients(parameters: Iterable[Any]) -> None:
    """Replace every gradient by its sum over all ranks, in one exchange."""
    if count() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    start = 0
    for g in gradients:
        g.copy_(flat[start : start + g.numel()].view_as(g))
        start += g.numel()


@torch.no_grad()
def spread(tensors: Iterable[Tensor]) -> None:
    """Give every rank the values of the first."""
    if count() > 1:
        for t in tensors:
            distributed.broadcast(t.data, src=0)


def agree(value: float) -> float:
    """Return the first rank's value: what all decide by must be equal to the last bit."""
    if count() == 1:
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    said = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.broadcast(said, src=0)
    return float(said)
