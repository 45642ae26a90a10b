"""What a run shows of itself: card and pictures, filled from the scores."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import ROOT
from presseco.card import model_card
from presseco.corpus import Corpus
from presseco.evaluate import TaskScore, score_all, split_logits
from presseco.examples import Data, Examples
from presseco.figures import confusion_figure, reliability_figure, risk_figure
from presseco.fitted import Fitted
from presseco.record import abstention
from presseco.taxonomy import MISSING, read_taxonomy

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")


@pytest.fixture
def scored() -> tuple[dict[str, np.ndarray], np.ndarray, list[TaskScore]]:
    rng = np.random.default_rng(0)
    truth = np.stack([rng.integers(0, len(t.ids), 60) for t in TAXONOMY.tasks], axis=1)
    truth[::9, 1] = MISSING
    logits = rng.normal(0, 1, (60, 32))
    p = split_logits(logits, TAXONOMY.task_map)
    return p, truth, score_all(TAXONOMY.task_map, p, truth)


def test_model_that_answers_nothing_has_no_share_of_wrong_answers(scored):
    p, truth, _ = scored
    texts = [""] * len(truth)
    split = Examples(texts, texts, truth, texts)
    data = Data(Corpus(Path(), "d", TAXONOMY, {}), split, split, split, {})
    fitted = Fitted({}, lambda *_: None, {}, {})
    thresholds = dict.fromkeys(TAXONOMY.names, 0.0) | {"sector": 1.01}
    metrics = abstention(fitted, data, {"thresholds": thresholds}, p)
    assert metrics["test.sector.coverage"] == 0.0 and "test.sector.risk" not in metrics
    assert metrics["test.sentiment.coverage"] == 1.0 and 0 < metrics["test.sentiment.risk"] < 1


@pytest.mark.parametrize(("encoder", "tag"), [("models/encoder", "camembert"), ("none", "skops")])
def test_card_holds_every_score_and_a_header_that_yaml_reads(scored, encoder, tag):
    _, _, scores = scored
    ones = dict.fromkeys(TAXONOMY.names, 1.0)
    lineage = {"run_id": "abc123", "corpus_digest": "d00d", "seed": 7, "encoder": encoder}
    calibration = {"temperatures": ones, "thresholds": dict.fromkeys(TAXONOMY.names, 0.73)}
    card = model_card("camembert-mini", scores, TAXONOMY, lineage, calibration)
    header = yaml.safe_load(card.split("---")[1])
    assert header["language"] == "fr" and header["license"] == "apache-2.0"
    assert tag in header["tags"]
    for s in scores:
        [line] = [row for row in card.splitlines() if row.startswith(f"| {s.task} |")]
        assert f"| {s.n} | {s.macro_f1:.3f} |" in line and "0.73" in line
    for key, value in lineage.items():
        assert f"- {key}: `{value}`" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    compile(code[1], "card", "exec")
    assert ("Classifier" in code[1]) == (tag == "camembert")


def test_confusion_figure_writes_every_count(scored):
    _, _, scores = scored
    for s in scores:
        axes = confusion_figure(s, "essai").axes[0]
        assert {int(t.get_text()) for t in axes.texts} == set(s.confusion[s.confusion > 0].tolist())
        assert [t.get_text() for t in axes.get_yticklabels()] == [r["label"] for r in s.per_class]
        assert f"n = {s.n}" in axes.get_title()


def test_reliability_figure_has_a_panel_a_task(scored):
    p, truth, _ = scored
    figure = reliability_figure(list(TAXONOMY.names), p, truth, "essai")
    assert [a.get_title() for a in figure.axes] == list(TAXONOMY.names)
    for name, axes in zip(TAXONOMY.names, figure.axes, strict=True):
        shares = [bar.get_height() for bar in axes.patches]
        assert sum(shares) == pytest.approx(1.0), name


def test_figures_with_one_task_only(scored):
    p, truth, _ = scored
    figure = reliability_figure(["sector"], p, truth[:, :1], "essai")
    assert len(figure.axes) == 1


def test_risk_figure_names_its_tasks():
    curve = (np.array([0.5, 1.0]), np.array([0.0, 0.1]))
    figure = risk_figure({"sector": curve, "sentiment": curve}, 0.05, "essai")
    [legend] = [a.get_legend() for a in figure.axes]
    assert [t.get_text() for t in legend.get_texts()] == ["sector", "sentiment"]
