"""The behaviour tests themselves: what each change alters, how rates are counted, what is logged."""

from __future__ import annotations

import json
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from conftest import ROOT, SHRINK, experiment, sets
from presseco.__main__ import main
from presseco.changes import INVARIANCES
from presseco.classifier import Answer, Prediction
from presseco.errors import ConfigError
from presseco.robustness import (
    directions,
    headlines,
    invariance,
    minimum_functionality,
    read_pairs,
)
from presseco.taxonomy import read_taxonomy

TEXT = "L’ÉTÉ à Paris\nLe 3 janvier 2021, Valmy a perdu 1 250 millions d'euros, dit-il."


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("apostrophes", "L'ÉTÉ à Paris\nLe 3 janvier 2021, Valmy a perdu 1 250 millions d'euros"),
        ("no-break spaces", "perdu 1\u00a0250 millions"),
        ("capitals without accents", "L’ETE à Paris"),
        ("headline in capitals", "L’ETE A PARIS\nLe 3 janvier"),
        ("M€ for millions", "1 250 M€, dit-il"),
        ("other months", "Le 3 juin 2021"),
        ("other last digits", "Le 3 janvier 2022, Valmy a perdu 1 251 millions"),
        ("lower case", "l’été à paris\nle 3 janvier 2021, valmy"),
        ("boilerplate at the end", "dit-il.\nTous droits de reproduction"),
    ],
)
def test_changes(change, expected):
    assert expected in INVARIANCES[change](TEXT)


def test_headlines_count_those_answered_and_those_of_them_that_are_right():
    def predict(texts: list[str]) -> list[Prediction]:
        sure = {"sector": Answer("energie", "Énergie", 0.9, abstained=False, probabilities={})}
        unsure = {"sector": Answer("sante", "Santé", 0.3, abstained=True, probabilities={})}
        return [Prediction(sure if "pétrole" in t else unsure, False, "m") for t in texts]

    titles = ["Le pétrole monte encore", "Du pétrole à Lyon", "Rien ne va plus", "Le pétrole", ""]
    labels = [{"sector": s} for s in ("energie", "finance", "sante", "energie", "energie")]
    found = {c.name: (c.rate, c.n) for c in headlines(predict, titles, labels)}
    assert found == {
        "sector: answered": (pytest.approx(2 / 3), 3),
        "sector: right": (0.5, 2),
    }
    silent = headlines(predict, titles[2:3], labels[2:3])
    assert [(c.name, c.rate) for c in silent] == [("sector: answered", 0.0)]
    assert headlines(predict, titles[3:], labels[3:]) == []


def by_length(texts: list[str]) -> list[dict[str, str]]:
    return [{"a": "long" if len(t) > 40 else "short", "b": "same"} for t in texts]


def test_invariance_counts_only_texts_that_the_change_alters():
    texts = ["Rien ne change ici", "Le 3 janvier 2021 à Lyon, chez Valmy"]
    cases, swap = invariance(by_length, texts, ["", "Valmy"])
    found = {c.name: c for c in cases}
    assert found["other months"].n == 1 and found["other months"].rate == 1.0
    assert found["boilerplate at the end"].n == 2
    assert found["boilerplate at the end"].rate == 0.5, "one of two tasks moves, for both texts"
    assert found["company swapped"].n == 1 and set(swap) == {"a", "b"}
    assert "M€ for millions" not in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {kind: [", "pairs.yaml: not valid YAML: "),
        ("kind: x", "pairs.yaml: expected a list of pairs, found dict"),
        ("- a word", "pairs.yaml: pair 1 has keys str; expected"),
        (None, "pairs.yaml: cannot be read: No such file"),
    ],
)
def test_mistakes_in_the_file_of_pairs(tmp_path, text, message):
    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
    if text is not None:
        (tmp_path / "pairs.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message):
        read_pairs(tmp_path / "pairs.yaml", taxonomy)


def test_directions_need_both_texts_right():
    pair = {"kind": "k", "task": "a", "label": "short", "other_label": "long"}
    long = "x" * 50
    pairs = [pair | {"text": "x", "other": long}, pair | {"text": "x", "other": "y"}]
    [case] = directions(by_length, pairs)
    assert (case.rate, case.n, case.kind) == (0.5, 2, "direction")


def test_minimum_is_told_by_task_and_by_label():
    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")

    def always_first(texts: list[str]) -> list[dict[str, str]]:
        return [{t.name: t.labels[0].id for t in taxonomy.tasks} for _ in texts]

    cases = minimum_functionality(always_first, taxonomy)
    labels = [c for c in cases if c.kind == "label"]
    assert len(labels) == sum(len(t.labels) for t in taxonomy.tasks)
    assert [c.name for c in labels if c.rate == 1.0] == [
        f"{t.name}: {t.labels[0].id}" for t in taxonomy.tasks
    ]
    [tasks] = [[c for c in cases if c.kind == "minimum"]]
    assert all(0 < c.rate < 0.5 for c in tasks) and len(tasks) == len(taxonomy.tasks)


@pytest.mark.services
def test_rates_are_logged_to_the_run_that_made_the_model(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    file = experiment(project, "camembert-mini")
    assert main(["train", file, *sets(SHRINK), "--set", "tracking.register=false"]) == 0
    assert main(["robustness", "--experiment", file, *sets(SHRINK)]) == 0
    printed = capsys.readouterr().out
    lineage: dict[str, Any] = json.loads(
        (project / "dist" / "camembert" / "bundle.json").read_text("utf-8")
    )["lineage"]
    run = MlflowClient(f"sqlite:///{project}/mlflow.db").get_run(lineage["run_id"])
    assert f"logged to run {run.info.run_id}" in printed.replace("\n", "")
    kinds = ("invariance", "direction", "minimum")
    assert all(0 <= run.data.metrics[f"robustness.{k}"] <= 1 for k in kinds)
    cases = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/robustness.json")["cases"]
    assert {c["kind"] for c in cases} == {*kinds, "label", "headline"}
    alone = {c["name"]: c["rate"] for c in cases if c["kind"] == "headline"}
    assert {f"{t}: answered" for t in ("sector", "event_type", "sentiment")} <= set(alone)
    logged = {k: v for k, v in run.data.metrics.items() if k.startswith("robustness.headline_")}
    named = (name.split(": ") for name in alone)
    assert logged == {f"robustness.headline_{w}.{t}": alone[f"{t}: {w}"] for t, w in named}
