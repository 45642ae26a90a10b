"""One point of a curve or an ablation: a model trained and scored, kept by all that decides it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from presseco import tracking
from presseco.config import Config
from presseco.distil import checkpoint
from presseco.encoder import locate
from presseco.evaluate import Floats, Ints, confusion_matrix, macro_f1
from presseco.examples import Data, Examples, check_labels
from presseco.files import write_text
from presseco.fit import fit
from presseco.fitted import GAIN, Fitted
from presseco.progress import Report
from presseco.taxonomy import MISSING, slices
from presseco.work import working

#: Part of every key: raise it when training changes so much that old points mean nothing.
_RECIPE = 2
#: The sections of the configuration that a kind of model reads.
_SECTIONS = {
    "baseline": ("baseline",),
    "frozen": ("frozen", "camembert"),
    "camembert": ("frozen", "camembert"),  # the head starts from the frozen model's regression
}
OnMetrics = Callable[[dict[str, float], int], None]


def subset(data: Data, size: int, seed: int) -> Data:
    """Return the data with the first `size` training articles of the seed's permutation (0: all).

    So the articles of a small size are among those of a larger one. Train's out-of-domain texts are
    cut to the same share. Raises `ConfigError` when a task has one label left.
    """
    count = len(data.train.ids)
    if not size or size >= count:
        return data
    rng = np.random.default_rng(seed)
    pick = rng.permutation(count)[:size]
    train = data.train.take(pick)
    where = f"the {size} training articles of seed {seed}"
    check_labels(data.task_map, train, 2, where, "Take a larger size.")
    texts = data.outside["train"]
    few = rng.permutation(len(texts))[: round(len(texts) * size / count)]
    outside = {**data.outside, "train": [texts[i] for i in few]}
    return replace(data, train=train, outside=outside, encoded=data.encoded_elsewhere())


def share_encoded(data: Data, part: Data) -> None:
    """Let `data` keep what a subset of it encoded, training articles apart: the next one needs it."""
    data.encoded.update(part.encoded_elsewhere())


def forget_encoded(data: Data, *configs: Config) -> None:
    """Drop the states kept for other settings: each is hundreds of megabytes for a full corpus."""
    kept = [
        (c.camembert.encoder, c.camembert.max_tokens, c.camembert.frozen_layers) for c in configs
    ]
    for key in [k for k in data.encoded if k[:3] not in kept]:
        del data.encoded[key]


def without_test(data: Data) -> Data:
    """Return the data without its test split: choices must not see it, and predicting it costs."""
    nothing = data.test.take([])
    return replace(data, test=nothing, outside={**data.outside, "test": []})


def point_key(config: Config, data: Data) -> str:
    """Return the digest of all that decides a point's scores.

    That is the seed, the settings that the kind of model reads, the encoder's files and those to
    distil from, the corpus, and which of its articles are used.
    """
    settings = config.model_dump(mode="json")
    parts: dict[str, Any] = {s: settings[s] for s in _SECTIONS[config.kind]}
    parts |= {"recipe": _RECIPE, "kind": config.kind, "seed": config.seed}
    parts |= {"corpus": data.corpus.digest, "train": sorted(data.train.ids)}
    parts |= {"test": bool(data.test.ids), "outside": sorted(data.outside["train"])}
    if config.distil is not None:
        teacher = checkpoint(config.path(config.distil.teacher))
        parts["distil"] = [settings["distil"], encoder_digest(teacher)]
        if config.distil.texts is not None:
            from presseco.unlabelled import texts_digest  # needs what the extra `collect` holds

            parts["distil"].append(texts_digest(config.path(config.distil.texts)))
    if config.kind != "baseline":
        parts["encoder"] = encoder_digest(locate(config.camembert.encoder, config.root))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def encoder_digest(folder: Path) -> str:
    """Return the digest of an encoder's files: the same path may hold other weights tomorrow."""
    whole = hashlib.sha256()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with (folder / name).open("rb") as f:
            whole.update(hashlib.file_digest(f, "sha256").digest())
    return whole.hexdigest()[:16]


def find_point(config: Config, key: str) -> dict[str, Any] | None:
    """Return a point that was computed before, from build/points."""
    path = _file(config, key)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def compute_point(
    config: Config, data: Data, key: str, report: Report, on_metrics: OnMetrics
) -> dict[str, Any]:
    """Train and score one point, and keep it in build/points.

    A point holds its key, model, seed, articles, corpus, commit, seconds, for validation and (if the
    data has one) test the accuracy and macro-F1 of every task, and what word logits added to their
    mean macro-F1. A killed one goes on from its last checkpoint.
    """
    started = time.monotonic()
    with working(config, key) as work:
        fitted = fit(config, data, work, report, on_metrics)
    seconds = time.monotonic() - started
    return keep_point(config, data, key, fitted, seconds)


def keep_point(
    config: Config, data: Data, key: str, fitted: Fitted, seconds: float
) -> dict[str, Any]:
    """Score a trained model; return the point, kept in build/points."""
    truths = {"validation": data.validation.labels, "test": data.test.labels}
    point = {
        "key": key,
        "model": config.name,
        "seed": config.seed,
        "articles": len(data.train.ids),
        "corpus": data.corpus.digest,
        "test_split": split_digest(data.test),
        "commit": tracking.git_commit(config.root),
        "seconds": round(seconds, 1),
    } | {s: task_scores(data, fitted.logits[s], y) for s, y in truths.items() if len(y)}
    gains = {s: fitted.metrics.get(f"{s}.{GAIN}") for s in truths}
    if known := {s: round(g, 5) for s, g in gains.items() if g is not None}:
        point[GAIN] = known
    write_text(_file(config, key), json.dumps(point, indent=1) + "\n")
    return point


def split_digest(split: Examples) -> str:
    """Return the digest of a split: scores are comparable where it is the same."""
    content = json.dumps([split.ids, split.texts, split.labels.tolist()])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _file(config: Config, key: str) -> Path:
    return config.path("build/points") / f"{key}.json"


def task_scores(data: Data, logits: Floats, truth: Ints) -> dict[str, dict[str, float]]:
    """Return accuracy and macro-F1 of every task, rounded to 5 places."""
    out = {}
    for i, s in enumerate(slices(data.task_map)):
        known = truth[:, i] != MISSING
        guess = logits[known, s.start : s.stop].argmax(axis=1)
        confusion = confusion_matrix(truth[known, i], guess, s.stop - s.start)
        out[s.name] = {
            "macro_f1": round(float(macro_f1(confusion)), 5),
            "accuracy": round(float((guess == truth[known, i]).mean()), 5),
        }
    return out


def flat_metrics(point: dict[str, Any]) -> dict[str, float]:
    """Return a point's scores as MLflow metrics, `<split>.<task>.<measure>`."""
    return (
        {
            f"{split}.{task}.{measure}": value
            for split in ("validation", "test")
            for task, scores in point.get(split, {}).items()
            for measure, value in scores.items()
        }
        | {f"{s}.{GAIN}": g for s, g in point.get(GAIN, {}).items()}
        | {"seconds": point["seconds"]}
    )


def merge_points(path: Path, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Append to a JSON file of points those whose identity is new; return all of them, in order."""
    kept: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    known = {_identity(p) for p in kept}
    kept += [p for p in points if _identity(p) not in known]
    body = ",\n".join(
        json.dumps(p, ensure_ascii=False) for p in kept
    )  # a line a point: small diffs
    write_text(path, f"[\n{body}\n]\n")
    return kept


def _identity(point: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(point.get(k, "")) for k in ("key", "model", "batch", "difference"))
