"""Ordinary label shares: what they are taken from, and what they do to a head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT, WRITERS, experiment, write_lines
from presseco.config import read_config
from presseco.corpus import build_corpus
from presseco.examples import load_data
from presseco.prior import log_ratios, shift_head, use_prior


@pytest.fixture
def corpus(project: Path, rows: list[dict[str, Any]]) -> Any:
    """Writer A wrote as ordered, writer B mostly bad news."""
    made = [
        {**r, "sentiment": "positif" if i % 2 and r["writer"] != "B" else "negatif"}
        for i, r in enumerate(rows)
    ]
    for w in WRITERS:
        write_lines(project / f"data/articles/{w}.jsonl", [r for r in made if r["writer"] == w])
    overrides = ["corpus.validation_writers=[E]", "corpus.test_writers=[F]", "corpus.seeds=null"]
    return build_corpus(read_config(experiment(project, "camembert-mini"), overrides))[0]


def test_ratios_go_to_what_the_writers_wrote(corpus: Any) -> None:
    ratios = log_ratios(load_data(corpus).train, corpus.taxonomy.task_map, ["B"])
    names = [label for _, labels in corpus.taxonomy.task_map for label in labels]
    assert ratios is not None and ratios.shape == (32,)
    assert ratios[names.index("negatif")] > 0.1 > -0.1 > ratios[names.index("positif")]
    # 30 of train's articles stand behind the writer's 20: no label is ever ruled out.
    assert np.isfinite(ratios).all() and ratios.min() > np.log(30 / 50) - 1e-9


def test_all_writers_together_are_the_corpus_itself(corpus: Any) -> None:
    train, task_map = load_data(corpus).train, corpus.taxonomy.task_map
    ratios = log_ratios(train, task_map, ["A", "B", "C", "D"])
    seen = [i for i, label in enumerate(corpus.taxonomy["sentiment"].ids) if label != "neutre"]
    assert ratios is not None and np.abs(ratios[-3:][seen]).max() < 0.02
    assert log_ratios(train, task_map, ["nobody"]) is None


def test_shift_moves_the_bias_by_its_part() -> None:
    head = torch.nn.Module()
    head.out_proj = torch.nn.Linear(4, 3)
    before = head.out_proj.bias.detach().clone()
    shift_head(head, np.array([1.0, 0.0, -2.0]), 0.5)
    assert torch.allclose(head.out_proj.bias - before, torch.tensor([0.5, 0.0, -1.0]))


def test_our_settings_name_writers_that_train_has() -> None:
    settings = read_config(ROOT / "configs/experiment/camembert-mini.yaml")
    lines = (
        p.read_text("utf-8").splitlines()[0] for p in (ROOT / "data/articles").glob("B?.jsonl")
    )
    held = {*settings.corpus.validation_writers, *settings.corpus.test_writers}
    wanted = set(settings.camembert.prior_writers)
    assert wanted and wanted <= {json.loads(x)["writer"] for x in lines} - held


def test_what_was_done_is_said_and_no_writer_is_a_warning(corpus: Any, caplog: Any) -> None:
    train, task_map = load_data(corpus).train, corpus.taxonomy.task_map
    settings = read_config(ROOT / "configs/experiment/camembert-mini.yaml").camembert
    head = torch.nn.Module()
    head.out_proj = torch.nn.Linear(4, 32)
    before = head.out_proj.bias.detach().clone()

    def done(**change: Any) -> str:
        return use_prior(head, train, task_map, settings.model_copy(update=change))

    off = "not applied: camembert.prior_shift is 0"
    assert done(prior_shift=0.0) == off and not caplog.text
    assert done(prior_writers=[f"Z{i}" for i in range(9)]).startswith("not applied: train has no")
    assert torch.equal(head.out_proj.bias, before)
    assert "prior_writers (Z0, Z1, Z2, Z3, Z4 and 4 more), its writers are A, B, C" in caplog.text
    found = sum(w == "B" for w in train.writers)
    assert done(prior_writers=["B"]) == f"applied: 0.5 of the log ratios, from {found} articles"
    ratios = log_ratios(train, task_map, ["B"])
    assert torch.allclose(head.out_proj.bias - before, 0.5 * torch.tensor(ratios).float())
    assert len(caplog.records) == 1
