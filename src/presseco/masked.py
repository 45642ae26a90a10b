"""The masked-word game: blocks of text, hidden words, and a model's loss on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from presseco.encoder import load_tokenizer
from presseco.errors import ConfigError, EncoderError
from presseco.states import autocast

#: Share of the words that are hidden; of their tokens 80 % become <mask>, 10 % a random token and
#: 10 % stay (Devlin et al. 2019). All tokens of a word are hidden together ("whole word").
_HIDDEN = 0.15
#: Share of the texts held out, at least one, at most this many: enough for a loss within 1 %.
_HELD_OUT, _MOST_HELD_OUT = 0.05, 500
_START_OF_WORD = "▁"


def cut(
    tokenizer: Any, texts: Sequence[str], max_tokens: int, source: Path
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the texts as blocks of at most `max_tokens` ids for training, and the held-out ones.

    A text is held out by its digest, so the same ones are in every run. Each block has its own
    `<s>` and `</s>`; ends of articles shorter than 8 tokens are dropped.
    """
    declared = json.loads((source / "config.json").read_text(encoding="utf-8"))
    room = declared["max_position_embeddings"] - 2
    if max_tokens > room:
        raise ConfigError(f"adapt: {max_tokens} tokens a block; this encoder takes {room}")
    start, end, size = declared["bos_token_id"], declared["eos_token_id"], max_tokens - 2
    order = sorted(range(len(texts)), key=lambda i: hashlib.sha256(texts[i].encode()).digest())
    held = set(order[: min(_MOST_HELD_OUT, max(1, round(_HELD_OUT * len(texts))))])
    out: tuple[list[list[int]], list[list[int]]] = ([], [])
    tokenizer.no_truncation()
    for i, text in enumerate(texts):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for at in range(0, len(ids), size):
            if len(ids[at : at + size]) >= 8:
                out[i in held].append([start, *ids[at : at + size], end])
    for part, name in zip(out, ("to train on", "held out"), strict=True):
        if not part:
            raise ConfigError(f"adapt: {len(texts)} texts leave none {name}; give more texts")
    return out


def load_masked(source: Path, train: Sequence[Sequence[int]]) -> tuple[Any, bool]:
    """Return a `CamembertForMaskedLM` of an encoder folder, and whether its word head is new.

    A new head predicts by the words' frequencies at first: its bias is their logarithm.
    """
    from transformers import CamembertForMaskedLM

    with safe_open(source / "model.safetensors", "pt") as f:
        new_head = not any(k.startswith("lm_head.") for k in f.keys())  # noqa: SIM118
    model, info = CamembertForMaskedLM.from_pretrained(
        source, dtype="float32", output_loading_info=True, local_files_only=True
    )
    lost = [k for k in info["missing_keys"] if not k.startswith("lm_head.")]
    if lost:
        raise EncoderError(f"{source}: {len(lost)} encoder weights are missing, e.g. {lost[0]}")
    if new_head:
        ids = np.concatenate([np.asarray(b) for b in train])
        seen = np.bincount(ids, minlength=model.config.vocab_size) + 0.1
        with torch.no_grad():
            model.lm_head.bias.copy_(torch.from_numpy(np.log(seen / seen.sum())))
    return model, new_head


class Game:
    """Hide words of texts and measure how well a model guesses them."""

    def __init__(self, model: Any, source: Path, bf16: bool) -> None:
        tokenizer = load_tokenizer(source)
        mask = tokenizer.token_to_id("<mask>")
        if mask is None:
            raise EncoderError(f"{source}/tokenizer.json has no <mask>; adapt needs one")
        self.model, self._mask, self._bf16 = model, mask, bf16
        self._size = model.config.vocab_size
        starts = np.zeros(self._size, dtype=bool)
        for token, number in tokenizer.get_vocab().items():
            starts[number] = token.startswith(_START_OF_WORD)
        self._starts = starts

    def hide(self, ids: Sequence[int], rng: np.random.Generator) -> tuple[Any, Any]:
        """Return the ids with words hidden, and which positions are to be guessed."""
        found = np.asarray(ids)
        starts = self._starts[found]
        starts[[0, 1, -1]] = True  # the first token is a word's, </s> is none
        word = np.cumsum(starts)
        hidden = rng.random(word[-1] + 1) < _HIDDEN
        hidden[[0, word[0], word[-1]]] = False  # no word, <s> and </s>
        if not hidden.any():
            hidden[rng.integers(word[0] + 1, word[-1])] = True
        where = hidden[word]
        fate, random = rng.random(len(found)), rng.integers(0, self._size, len(found))
        out = np.where(where & (fate < 0.8), self._mask, found)
        return np.where(where & (fate >= 0.9), random, out), where

    def loss(self, blocks: Sequence[Sequence[int]], seed: int) -> Tensor:
        """Return the mean cross-entropy of the hidden tokens of a batch, in nats."""
        rng = np.random.default_rng(seed)
        shape = (len(blocks), max(map(len, blocks)))
        pad = self.model.config.pad_token_id
        ids, truth = np.full(shape, pad), np.full(shape, -100)
        for i, block in enumerate(blocks):
            ids[i, : len(block)], where = self.hide(block, rng)
            truth[i, : len(block)][where] = np.asarray(block)[where]
        device = next(self.model.parameters()).device
        batch, target = torch.from_numpy(ids).to(device), torch.from_numpy(truth).to(device)
        with autocast(self._bf16, device):
            mask = (batch != pad).long()
            states = self.model.roberta(input_ids=batch, attention_mask=mask).last_hidden_state
            # Only the hidden positions pass the head: 15 % of its work, which is most of the step's.
            logits = self.model.lm_head(states[target != -100])
        return functional.cross_entropy(logits.float(), target[target != -100])

    @torch.no_grad()
    def held_out_loss(self, blocks: Sequence[Sequence[int]]) -> float:
        """Return the loss on held-out blocks, always with the same words hidden."""
        was_training = self.model.training
        self.model.eval()
        total, n = 0.0, 0
        for at in range(0, len(blocks), 16):
            some = blocks[at : at + 16]
            total, n = total + float(self.loss(some, seed=at)) * len(some), n + len(some)
        self.model.train(was_training)
        return total / n
