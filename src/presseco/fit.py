"""The three kinds of model behind one interface: fit on train, tune on validation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from presseco import processes
from presseco.baseline import fit_baseline
from presseco.camembert import fine_tune
from presseco.config import Config
from presseco.distil import make_guide, unlabelled_texts
from presseco.encoded import encoded, kept_probe, load_encoder, train_name
from presseco.encoder import token_ids
from presseco.evaluate import Ints, mean_macro_f1
from presseco.examples import TRAIN, Data
from presseco.fitted import GAIN, Fitted, bundle_writer, splits
from presseco.probe import start_head
from presseco.progress import Report
from presseco.states import Inputs, device_for, first_vectors, head_logits, predict_logits, use_bf16
from presseco.taxonomy import MISSING, OUTSIDE
from presseco.widen import TYPICAL, widen
from presseco.words import fit_words, strengths

OnMetrics = Callable[[dict[str, float], int], None]


def fit(config: Config, data: Data, work: Path, report: Report, on_metrics: OnMetrics) -> Fitted:
    """Fit the model of `config.kind`; `work` holds what a killed run resumes from."""
    kinds = {"baseline": _baseline, "frozen": _frozen, "camembert": _camembert}
    return kinds[config.kind](config, data, work, report, on_metrics)


def _baseline(
    config: Config, data: Data, work: Path, report: Report, on_metrics: OnMetrics
) -> Fitted:
    total, done = len(data.task_map) * len(config.baseline.c_grid), 0

    def progress(task: str, c: float, score: float) -> None:
        nonlocal done
        done += 1
        report(f"{task}, C = {c:g}: {score:.3f}", done, total)

    model = fit_baseline(
        data.train.texts,
        data.train.labels,
        data.validation.texts,
        data.validation.labels,
        task_map=data.task_map,
        config=config.baseline,
        progress=progress,
    )

    def save(folder: Path, calibration: dict[str, Any], card: str) -> None:
        model.save(folder, **calibration)
        (folder / "README.md").write_text(card, encoding="utf-8")

    logits = {s: model.logits(t) for s, t in splits(data).items() if t}
    return Fitted(logits, save, {}, {f"c.{t}": c for t, c in model.c.items()})


def _frozen(
    config: Config, data: Data, work: Path, report: Report, on_metrics: OnMetrics
) -> Fitted:
    model, tokenizer = load_encoder(config, data)

    def vectors(name: str, texts: list[str]) -> Any:
        return encoded(config, data, model, tokenizer, name, texts, report)[1]

    texts = data.train.texts + data.outside["train"]
    train = vectors(TRAIN, texts)[: len(data.train.texts)]
    found = {s: vectors(s, t) for s, t in splits(data).items() if t}
    probe = kept_probe(config, data, train, found["validation"])
    start_head(model.classifier, probe)
    logits = {s: probe.logits(v) for s, v in found.items()}
    save = bundle_writer(config, data, model, tokenizer, logits)
    return Fitted(logits, save, {}, {f"c.{t}": c for t, c in probe.c.items()})


def _camembert(
    config: Config, data: Data, work: Path, report: Report, on_metrics: OnMetrics
) -> Fitted:
    settings = config.camembert
    started = time.monotonic()
    model, tokenizer = load_encoder(config, data)
    texts = data.train.texts + data.outside["train"]
    nothing = np.full((len(data.outside["train"]), len(data.task_map)), OUTSIDE, dtype=np.int64)
    extra = unlabelled_texts(config, data.corpus.taxonomy)
    unknown = np.full((len(extra), len(data.task_map)), MISSING, dtype=np.int64)
    labels = np.concatenate([data.train.labels, nothing, unknown])
    train, train_vectors = encoded(
        config, data, model, tokenizer, train_name(extra), texts + extra, report
    )
    validation, validation_vectors = encoded(
        config, data, model, tokenizer, "validation", data.validation.texts, report
    )
    if settings.probe_head:
        own = train_vectors[: len(data.train.texts)]
        start_head(model.classifier, kept_probe(config, data, own, validation_vectors))
    guide = None
    if config.distil:
        guide = make_guide(config, model, train.ids, texts + extra, data.task_map, work, report)
    trained = time.monotonic()
    state = fine_tune(
        model,
        train,
        labels,
        validation,
        data.validation.labels,
        task_map=data.task_map,
        config=settings,
        seed=config.seed,
        folder=work,
        guide=guide,
        on_epoch=lambda epoch, metrics: on_metrics(metrics, epoch),
        on_step=lambda step, total: report("fine-tuning", step, total),
    )
    if guide:
        guide.close()
    if not processes.first():  # has helped to train, and has nothing to save
        return Fitted({}, lambda *_: None, {}, {})
    seconds = time.monotonic() - trained
    seen = (state.step - state.resumed) * settings.batch_size
    factors: dict[str, float] = {}
    head = model.classifier
    if settings.word_logits:
        report("word logits", 0, 1)
        model, factors = _with_words(config, data, model, train.ids, labels, validation)
    vectors = _vectors(config, data, model, tokenizer, report)
    logits = {split: head_logits(model.classifier, v) for split, v in vectors.items()}
    metrics = {
        "train.docs_per_second": seen / seconds,
        "train.seconds": time.monotonic() - started,
        "train.best_epoch": float(state.best_epoch + 1),
    }
    truths = {"validation": data.validation.labels, "test": data.test.labels}
    for split, truth in truths.items():
        if not settings.word_logits or split not in vectors:
            continue
        # The head as it was reads the dimensions that were there before.
        own = head_logits(head, vectors[split][:, : head.dense.in_features])
        scores = [mean_macro_f1(data.task_map, x, truth) for x in (logits[split], own)]
        metrics[f"{split}.{GAIN}"] = scores[0] - scores[1]
    save = bundle_writer(config, data, model, tokenizer, logits)
    tags = {"resumed_at_step": str(state.resumed)} if state.resumed else {}
    return Fitted(logits, save, metrics, factors, tags)


def _with_words(
    config: Config,
    data: Data,
    model: Any,
    train: list[list[int]],
    labels: Ints,
    validation: Inputs,
) -> tuple[Any, dict[str, float]]:
    """Return the model with what the words of train's texts say written into it.

    `train` are token ids, `labels` theirs; how much the words count is fitted on `validation`, and
    returned by task.
    """
    words = fit_words(train, labels, data.task_map, model.config.vocab_size)
    settings = config.camembert
    bf16 = use_bf16(settings.precision, device_for())
    own = predict_logits(model, validation, frozen_layers=settings.frozen_layers, bf16=bf16)
    said, truth = words.logits(validation.ids), data.validation.labels
    factors = strengths(own, said, truth, data.task_map)
    # Of all writers alike: sizes are measured on them.
    some = train[: len(data.train.texts)]
    wide = widen(model, words, factors, data.task_map, some[:: max(1, len(some) // TYPICAL)])
    named = zip(data.task_map, factors, strict=True)
    return wide, {f"word_factor.{task}": round(float(f), 3) for (task, _), f in named}


def _vectors(
    config: Config, data: Data, model: Any, tokenizer: Any, report: Report
) -> dict[str, Tensor]:
    """Return what the head reads of each split that has texts, by the whole model."""
    bf16 = use_bf16(config.camembert.precision, device_for())
    vectors = {}
    for name, texts in splits(data).items():
        if texts:
            report(f"{name}: predictions", 0, 1)
            plain = Inputs(token_ids(tokenizer, texts, config.camembert.max_tokens), None, [])
            vectors[name] = first_vectors(model, plain, frozen_layers=0, bf16=bf16)
    return vectors
