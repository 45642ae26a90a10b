"""A fitted model: its logits, and how what is registered of it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from presseco.config import Config
from presseco.encoder import locate
from presseco.evaluate import Floats, split_logits
from presseco.examples import Data
from presseco.export import export_bundle
from presseco.reference import make_reference

#: Metric of a split: mean macro-F1 with the word logits less that without.
GAIN = "word_gain"


@dataclass
class Fitted:
    """A fitted model: its flat logits by split, and how to save it given its calibration.

    `save(folder, calibration, card)` writes what is registered, and what documents a second are
    measured on. `tags` say what happened on the way.
    """

    logits: dict[str, Floats]
    save: Callable[[Path, dict[str, Any], str], None]
    metrics: dict[str, float]
    params: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)


def splits(data: Data) -> dict[str, list[str]]:
    """Return the texts that a fitted model is asked about, by split; one may have none."""
    return {
        "validation": data.validation.texts,
        "test": data.test.texts,
        "outside_validation": data.outside["validation"],
        "outside_test": data.outside["test"],
    }


def bundle_writer(
    config: Config, data: Data, model: Any, tokenizer: Any, logits: dict[str, Floats]
) -> Callable[[Path, dict[str, Any], str], None]:
    """Return `Fitted.save` for a model that goes out as a bundle; `logits` are its splits'."""

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


def golden_texts(data: Data) -> list[str]:
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
