"""The encoder in two parts: lower layers computed once and kept, upper layers trained on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from presseco.attention import attend
from presseco.batches import length_batches

Progress = Callable[[int, int], None]


def device_for(model_device: str = "auto") -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    if model_device != "auto":
        return torch.device(model_device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to compute in bf16: as asked, or for `auto` where the hardware has it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def autocast(bf16: bool, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context, or one that does nothing."""
    if bf16:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Inputs:
    """Texts ready for the upper layers: token ids, or the states after the frozen layers.

    `states` is flat, shape (tokens of all texts, hidden), text i at `offsets[i]:offsets[i + 1]`.
    """

    ids: list[list[int]]
    states: Tensor | None
    offsets: list[int]

    @property
    def lengths(self) -> list[int]:
        """Return each text's number of tokens."""
        return [len(i) for i in self.ids]


def collate(
    inputs: Inputs, rows: Sequence[int], pad: int, keep: list[Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Return one batch and its mask (true: a token), shapes (rows, longest[, hidden]).

    `keep` holds for each row the positions that stay (token dropout); None keeps all.
    """
    kept = [
        keep[j] if keep is not None else np.arange(len(inputs.ids[i])) for j, i in enumerate(rows)
    ]
    longest = max(len(k) for k in kept)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    if inputs.states is None:
        batch = torch.full((len(rows), longest), pad)
    else:
        batch = torch.zeros(len(rows), longest, inputs.states.shape[1], dtype=inputs.states.dtype)
    for j, (i, k) in enumerate(zip(rows, kept, strict=True)):
        if inputs.states is None:
            batch[j, : len(k)] = torch.tensor(inputs.ids[i])[k]
        else:
            batch[j, : len(k)] = inputs.states[inputs.offsets[i] : inputs.offsets[i + 1]][k]
        mask[j, : len(k)] = True
    return batch, mask


def upper(model: Any, batch: Tensor, mask: Tensor, frozen_layers: int) -> Tensor:
    """Return the last hidden state of `<s>`, shape (rows, 1, hidden).

    `batch` holds ids (embedded first) or the states after the frozen layers.
    """
    hidden = model.roberta.embeddings(input_ids=batch) if batch.dim() == 2 else batch.float()
    layers = model.roberta.encoder.layer[0 if batch.dim() == 2 else frozen_layers :]
    wide = mask[:, None, None, :]
    for layer in layers[:-1]:
        hidden = all_tokens(layer, hidden, wide)
    return first_token(layers[-1], hidden, wide) if len(layers) else hidden[:, :1]


def first_token(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return what a layer makes of the first token alone, shape (rows, 1, hidden).

    The head reads no other; of the others it needs keys and values only, a sixth of the work. `mask` has
    shape (rows, 1, 1, tokens).
    """
    return _through(layer, hidden[:, :1], hidden, mask)


def all_tokens(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return what a layer makes of every token, shape (rows, tokens, hidden); padding is not defined."""
    return _through(layer, hidden, hidden, mask)


def _through(layer: Any, asking: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return what a layer makes of the tokens in `asking`; no dropout inside attention (`load_model`)."""
    own = layer.attention.self

    def heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], own.num_attention_heads, -1).transpose(1, 2)

    context = attend(
        heads(own.query(asking)), heads(own.key(hidden)), heads(own.value(hidden)), mask
    )
    after: Tensor = layer.attention.output(context.transpose(1, 2).flatten(2), asking)
    return layer.feed_forward_chunk(after)  # type: ignore[no-any-return]


@torch.no_grad()
def encode(
    model: Any,
    ids: list[list[int]],
    *,
    frozen_layers: int,
    bf16: bool,
    progress: Progress = lambda done, total: None,
    size: int = 32,
) -> tuple[Inputs, np.ndarray]:
    """Run the whole encoder once, without dropout.

    Returns the inputs for training (with the states after `frozen_layers`, if any) and each text's
    `<s>` vector of the last layer, shape (texts, hidden): what the linear probe learns from.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    lengths = [len(i) for i in ids]
    offsets = [0, *np.cumsum(lengths).tolist()]
    hidden_size = model.config.hidden_size
    states = torch.empty(offsets[-1], hidden_size, dtype=torch.bfloat16) if frozen_layers else None
    vectors = np.zeros((len(ids), hidden_size), dtype=np.float32)
    plain = Inputs(ids, None, offsets)
    done = 0
    for rows in length_batches(lengths, size, seed=0):
        batch, mask = (x.to(device) for x in collate(plain, rows, model.config.pad_token_id))
        with autocast(bf16, device):
            hidden = model.roberta.embeddings(input_ids=batch)
            for n, layer in enumerate(model.roberta.encoder.layer):
                last = n + 1 == len(model.roberta.encoder.layer) > frozen_layers
                hidden = (first_token if last else all_tokens)(
                    layer, hidden, mask[:, None, None, :]
                )
                if states is not None and n + 1 == frozen_layers:
                    for j, i in enumerate(rows):
                        states[offsets[i] : offsets[i + 1]] = (
                            hidden[j, : lengths[i]].bfloat16().cpu()
                        )
        vectors[rows] = hidden[:, 0].float().cpu().numpy()
        done += len(rows)
        progress(done, len(ids))
    model.train(was_training)
    return Inputs(ids, states, offsets), vectors


def predict_logits(
    model: Any, inputs: Inputs, *, frozen_layers: int, bf16: bool, size: int = 32
) -> np.ndarray:
    """Return the flat logits, shape (texts, labels of all tasks), without dropout."""
    vectors = first_vectors(model, inputs, frozen_layers=frozen_layers, bf16=bf16, size=size)
    return head_logits(model.classifier, vectors)


@torch.no_grad()
def first_vectors(
    model: Any, inputs: Inputs, *, frozen_layers: int, bf16: bool, size: int = 32
) -> Tensor:
    """Return the last hidden state of `<s>`, shape (texts, hidden), without dropout."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    out = torch.zeros(len(inputs.ids), model.config.hidden_size, device=device)
    for rows in length_batches(inputs.lengths, size, seed=0):
        batch, mask = (x.to(device) for x in collate(inputs, rows, model.config.pad_token_id))
        with autocast(bf16, device):
            out[rows] = upper(model, batch, mask, frozen_layers)[:, 0].float()
    model.train(was_training)
    return out


@torch.no_grad()
def head_logits(head: Any, vectors: Tensor) -> np.ndarray:
    """Return what a classification head makes of vectors of shape (texts, hidden)."""
    was_training = head.training
    logits: np.ndarray = head.eval()(vectors[:, None]).cpu().numpy()
    head.train(was_training)
    return logits
