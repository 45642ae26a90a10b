"""The three kinds of model behind one interface: fit on train, tune on validation, save."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from presseco import processes
from presseco.baseline import fit_baseline
from presseco.camembert import fine_tune
from presseco.config import Config
from presseco.distil import make_guide, unlabelled_texts
from presseco.encoder import check_fit, load_model, load_tokenizer, locate, token_ids
from presseco.evaluate import Floats, Ints, mean_macro_f1, split_logits
from presseco.examples import TRAIN, Data
from presseco.export import export_bundle
from presseco.prior import use_prior
from presseco.probe import fit_probe, start_head
from presseco.progress import Report
from presseco.reference import make_reference
from presseco.states import (
    Inputs,
    device_for,
    encode,
    first_vectors,
    head_logits,
    predict_logits,
    use_bf16,
)
from presseco.taxonomy import MISSING, OUTSIDE
from presseco.widen import TYPICAL, widen
from presseco.words import fit_words, strengths

OnMetrics = Callable[[dict[str, float], int], None]
Golden = list[str]
#: Metric of a split: mean macro-F1 with the word logits less that without.
GAIN = "word_gain"


@dataclass
class Fitted:
    """A fitted model: its flat logits by split, and how to save it given its calibration.

    `save(folder, calibration, card)` writes what is registered, and what documents a second are
    measured on. `tags` say what of the settings took effect.
    """

    logits: dict[str, Floats]
    save: Callable[[Path, dict[str, Any], str], None]
    metrics: dict[str, float]
    params: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)


def fit(config: Config, data: Data, work: Path, report: Report, on_metrics: OnMetrics) -> Fitted:
    """Fit the model of `config.kind`; `work` holds what a killed run resumes from."""
    kinds = {"baseline": _baseline, "frozen": _frozen, "camembert": _camembert}
    return kinds[config.kind](config, data, work, report, on_metrics)


def _splits(data: Data) -> dict[str, list[str]]:
    return {
        "validation": data.validation.texts,
        "test": data.test.texts,
        "outside_validation": data.outside["validation"],
        "outside_test": data.outside["test"],
    }


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

    logits = {s: model.logits(t) for s, t in _splits(data).items() if t}
    return Fitted(logits, save, {}, {f"c.{t}": c for t, c in model.c.items()})


def _encoder(config: Config, data: Data) -> tuple[Any, Any, Path]:
    folder = locate(config.camembert.encoder, config.root)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(config.seed)  # the head is drawn at random when the model is built
    model = load_model(folder, data.task_map, config.camembert.dropout)
    check_fit(tokenizer, model, config.camembert.max_tokens)
    return model.to(device_for()), tokenizer, folder


def _encoded(
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


def _train_name(extra: list[str]) -> str:
    """Return the name that train's states are kept under, with what was read beside its articles."""
    if not extra:
        return TRAIN
    return f"{TRAIN} and {hashlib.sha256(json.dumps(extra).encode()).hexdigest()[:16]}"


def _frozen(
    config: Config, data: Data, work: Path, report: Report, on_metrics: OnMetrics
) -> Fitted:
    model, tokenizer, _ = _encoder(config, data)

    def vectors(name: str, texts: list[str]) -> Any:
        return _encoded(config, data, model, tokenizer, name, texts, report)[1]

    texts = data.train.texts + data.outside["train"]
    train = vectors(TRAIN, texts)[: len(data.train.texts)]
    splits = {s: vectors(s, t) for s, t in _splits(data).items() if t}
    probe = _probe(config, data, train, splits["validation"])
    start_head(model.classifier, probe)
    logits = {s: probe.logits(v) for s, v in splits.items()}
    save = _bundle_writer(config, data, model, tokenizer, logits)
    return Fitted(logits, save, {}, {f"c.{t}": c for t, c in probe.c.items()})


def _probe(config: Config, data: Data, train: Any, validation: Any) -> Any:
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


def _camembert(
    config: Config, data: Data, work: Path, report: Report, on_metrics: OnMetrics
) -> Fitted:
    settings = config.camembert
    started = time.monotonic()
    model, tokenizer, _ = _encoder(config, data)
    texts = data.train.texts + data.outside["train"]
    nothing = np.full((len(data.outside["train"]), len(data.task_map)), OUTSIDE, dtype=np.int64)
    extra = unlabelled_texts(config, data.corpus.taxonomy)
    unknown = np.full((len(extra), len(data.task_map)), MISSING, dtype=np.int64)
    labels = np.concatenate([data.train.labels, nothing, unknown])
    train, train_vectors = _encoded(
        config, data, model, tokenizer, _train_name(extra), texts + extra, report
    )
    validation, validation_vectors = _encoded(
        config, data, model, tokenizer, "validation", data.validation.texts, report
    )
    if settings.probe_head:
        own = train_vectors[: len(data.train.texts)]
        start_head(model.classifier, _probe(config, data, own, validation_vectors))
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
    tags = {"prior_shift": use_prior(model.classifier, data.train, data.task_map, settings)}
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
    for split, truth in truths.items() if settings.word_logits else ():
        # The head as it was reads the dimensions that were there before.
        own = head_logits(head, vectors[split][:, : head.dense.in_features])
        scores = [mean_macro_f1(data.task_map, x, truth) for x in (logits[split], own)]
        metrics[f"{split}.{GAIN}"] = scores[0] - scores[1]
    save = _bundle_writer(config, data, model, tokenizer, logits)
    if state.resumed:
        tags["resumed_at_step"] = str(state.resumed)
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

    `train` are token ids, `labels` theirs. Then how much the words count, by task.
    """
    words = fit_words(train, labels, data.task_map, model.config.vocab_size)
    frozen, bf16 = (
        config.camembert.frozen_layers,
        use_bf16(config.camembert.precision, device_for()),
    )
    own = predict_logits(model, validation, frozen_layers=frozen, bf16=bf16)
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
    for name, texts in _splits(data).items():
        if texts:
            report(f"{name}: predictions", 0, 1)
            plain = Inputs(token_ids(tokenizer, texts, config.camembert.max_tokens), None, [])
            vectors[name] = first_vectors(model, plain, frozen_layers=0, bf16=bf16)
    return vectors


def _bundle_writer(
    config: Config, data: Data, model: Any, tokenizer: Any, logits: dict[str, Floats]
) -> Callable[[Path, dict[str, Any], str], None]:
    def save(folder: Path, calibration: dict[str, Any], card: str) -> None:
        encoder = locate(config.camembert.encoder, config.root)
        export_bundle(
            model,
            tokenizer,
            folder,
            name=f"presseco-{config.name}",
            taxonomy=data.corpus.taxonomy,
            temperatures=calibration["temperatures"],
            thresholds=calibration["thresholds"],
            max_tokens=config.camembert.max_tokens,
            golden=golden_texts(data),
            lineage=calibration["lineage"],
            card=card,
            notices=[p for p in (encoder / "NOTICE", config.path("LICENSE")) if p.exists()],
            reference=_reference(data, logits, calibration),
        )

    return save


def _reference(
    data: Data, logits: dict[str, Floats], calibration: dict[str, Any]
) -> dict[str, Any]:
    both = np.concatenate([logits["validation"], logits["test"]])
    return make_reference(
        split_logits(both, data.task_map, calibration["temperatures"]),
        calibration["thresholds"],
        data.validation.texts + data.test.texts,
        data.train.texts,
    )


def golden_texts(data: Data) -> Golden:
    """Return 24 texts for the bundle's self-test: validation articles and awkward strings."""
    awkward = [
        "Brève.",
        "LE CAC 40 CHUTE DE 3 %\nPARIS – L’indice a perdu 1 200 points…",
        "Chiffre d’affaires : 3,2 Md€ (+4,5 %), résultat net : 120 M€.",
        "«\u00a0Nous n'avons pas vendu\u00a0», a démenti l'entreprise.\n\n\n",
    ]
    step = max(1, len(data.validation.texts) // 20)
    texts = (data.validation.texts[::step] * 20)[:20]
    return texts + awkward
