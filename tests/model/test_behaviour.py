"""Behaviour of a trained model: what must not change its answers, what must, what it must know.

Runs against the bundle that PRESSECO_BUNDLE names, or dist/camembert; skipped only where none has been
trained. The floors are what a model may not fall under, not what ours reaches: `make robustness` gives
the rates and logs them to the model's run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from presseco import Classifier
from presseco.config import read_config
from presseco.robustness import Case, check_model, read_pairs
from presseco.taxonomy import read_taxonomy

pytestmark = pytest.mark.services

#: Least share of answers that a change without meaning leaves as they are, each change by itself.
EACH_INVARIANCE = 0.80
#: Least share of pairs (both texts right) over all directions; chance is under 0.12.
DIRECTION = 0.50
#: Least share of the taxonomy's own examples, by task: short texts, unlike articles.
MINIMUM = 0.60
#: Articles of the test writers that the changes are tried on.
ARTICLES = 60


def bundle() -> Path:
    named = os.environ.get("PRESSECO_BUNDLE")
    folder = Path(named) if named else ROOT / "dist" / "camembert"
    if not (folder / "bundle.json").is_file():
        if named:
            pytest.fail(f"PRESSECO_BUNDLE is {named}: no bundle there (bundle.json is missing)")
        pytest.skip(f"{folder}: no model has been trained here; run `make train`")
    return folder


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    model = Classifier.load(bundle())
    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
    config = read_config(ROOT / "configs" / "experiment" / "camembert-mini.yaml")
    rows = []
    for writer in config.corpus.test_writers:
        path = ROOT / "data" / "articles" / f"{writer}.jsonl"
        if path.exists():
            lines = path.read_text("utf-8").splitlines()
            rows += [r for r in map(json.loads, lines) if not r.get("out_of_domain")]
    picks = np.random.default_rng(0).permutation(len(rows))[:ARTICLES]

    def predict(texts: list[str]) -> list[dict[str, str]]:
        return [{t: a.label for t, a in p.answers.items()} for p in model.predict(texts)]

    return check_model(
        predict,
        taxonomy,
        read_pairs(ROOT / "configs" / "robustness.yaml", taxonomy),
        [rows[i]["text"] for i in picks],
        [rows[i].get("company", "") for i in picks],
    )[0]


def told(cases: list[Case]) -> str:
    return ", ".join(f"{c.name} {c.rate:.2f} (n = {c.n})" for c in cases)


def of(cases: list[Case], kind: str) -> list[Case]:
    found = [c for c in cases if c.kind == kind]
    assert found, f"no case of kind {kind}"
    return found


def test_no_change_without_meaning_moves_many_answers(cases):
    low = [c for c in of(cases, "invariance") if c.rate < EACH_INVARIANCE]
    assert not low, told(low)


def test_invariance_on_the_whole_is_what_promotion_asks_for(cases):
    least = read_config(ROOT / "configs/experiment/camembert-mini.yaml").promote.min_invariance
    found = of(cases, "invariance")
    assert np.mean([c.rate for c in found]) >= least, told(found)


def test_opposite_news_get_opposite_answers(cases):
    found = of(cases, "direction")
    rate = np.average([c.rate for c in found], weights=[c.n for c in found])
    assert rate >= DIRECTION, told(found)


def test_examples_of_the_guideline_get_their_label(cases):
    low = [c for c in of(cases, "minimum") if c.rate < MINIMUM]
    assert not low, told(low)


def test_no_label_is_unknown_to_the_model(cases):
    """Nine labels of ten get at least one of their own examples."""
    found = of(cases, "label")
    never = [c for c in found if c.rate == 0]
    assert len(never) <= len(found) / 10, told(never)
