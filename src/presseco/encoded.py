"""What the encoder makes of the articles, kept for all models of one job."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from presseco.config import Config
from presseco.encoder import check_fit, load_model, load_tokenizer, locate, token_ids
from presseco.examples import TRAIN, Data
from presseco.probe import fit_probe
from presseco.progress import Report
from presseco.states import Inputs, device_for, encode, use_bf16


def load_encoder(config: Config, data: Data) -> tuple[Any, Any]:
    """Return a model of the encoder under a head drawn at random by the seed, and the tokenizer."""
    folder = locate(config.camembert.encoder, config.root)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(config.seed)
    model = load_model(folder, data.task_map, config.camembert.dropout)
    check_fit(tokenizer, model, config.camembert.max_tokens)
    return model.to(device_for()), tokenizer


def encoded(
    config: Config,
    data: Data,
    model: Any,
    tokenizer: Any,
    name: str,
    texts: list[str],
    report: Report,
) -> tuple[Inputs, Any]:
    """Return a split's inputs and frozen vectors, computed once for all models of this job."""
    settings = config.camembert
    key = (*_states_of(config), name)
    if key not in data.encoded:
        data.encoded[key] = encode(
            model,
            token_ids(tokenizer, texts, settings.max_tokens),
            frozen_layers=settings.frozen_layers,
            bf16=use_bf16(settings.precision, device_for()),
            progress=lambda done, total: report(f"{name}: frozen layers", done, total),
        )
    found: tuple[Inputs, Any] = data.encoded[key]
    return found


def _states_of(config: Config) -> tuple[Any, ...]:
    """Return the settings that decide the states and vectors that are kept."""
    settings = config.camembert
    return settings.encoder, settings.max_tokens, settings.frozen_layers, settings.precision


def train_name(extra: list[str]) -> str:
    """Return the name that train's states are kept under, with what was read beside its articles."""
    if not extra:
        return TRAIN
    return f"{TRAIN} and {hashlib.sha256(json.dumps(extra).encode()).hexdigest()[:16]}"


def kept_probe(config: Config, data: Data, train: Any, validation: Any) -> Any:
    """Return the logistic regression on frozen vectors of train's and validation's articles.

    Fitted once for all models of this job.
    """
    labels = hashlib.sha256(data.train.labels.tobytes()).hexdigest()
    key = (*_states_of(config), *config.frozen.c_grid, labels, f"{TRAIN} probe")
    if key not in data.encoded:
        data.encoded[key] = fit_probe(
            train,
            data.train.labels,
            validation,
            data.validation.labels,
            data.task_map,
            config.frozen.c_grid,
        )
    return data.encoded[key]
