"""The taxonomy: its own checks, and what a wrong label says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from presseco.errors import TaxonomyError
from presseco.taxonomy import MISSING, read_taxonomy, slices

REAL = ROOT / "configs" / "taxonomy.yaml"


@pytest.fixture
def data() -> dict:
    return {
        "version": "1",
        "tasks": [
            {
                "name": "sujet",
                "question_fr": "Quoi ?",
                "question_en": "What?",
                "labels": [
                    {"id": i, "display": i, "definition_fr": "x", "definition_en": "x"}
                    for i in ("culture", "sport")
                ],
            }
        ],
    }


def refused(tmp_path: Path, data: object) -> str:
    path = tmp_path / "taxonomy.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(TaxonomyError) as e:
        read_taxonomy(path)
    assert str(path) in str(e.value)
    return str(e.value)


def test_real_taxonomy_has_the_three_questions():
    real = read_taxonomy(REAL)
    assert {t: len(real[t].labels) for t in real.names} == {
        "sector": 14,
        "event_type": 15,
        "sentiment": 3,
    }


def test_every_real_label_is_explained():
    for task in read_taxonomy(REAL).tasks:
        for label in task.labels:
            assert label.display and label.definition_fr and label.definition_en
            assert len(label.examples) >= 2, label.id
            assert label.borderline and label.borderline.why, label.id


def test_slices_cover_the_flat_logits_without_gap():
    places = slices(read_taxonomy(REAL).task_map)
    assert [(s.start, s.stop) for s in places] == [(0, 14), (14, 29), (29, 32)]


def test_index_and_missing():
    real = read_taxonomy(REAL)
    for task in real.tasks:
        assert [real.index(task.name, i) for i in task.ids] == list(range(len(task.ids)))
    assert real.index("sector", None) == MISSING


def test_wrong_label_names_place_and_nearest():
    with pytest.raises(TaxonomyError, match=r"^a\.jsonl:7: sector is 'tecnologie', which is no"):
        read_taxonomy(REAL).check("sector", "tecnologie", "a.jsonl:7")
    with pytest.raises(TaxonomyError, match="did you mean 'technologie'"):
        read_taxonomy(REAL).check("sector", "tecnologie", "a.jsonl:7")
    with pytest.raises(TaxonomyError) as e:
        read_taxonomy(REAL).check("sector", "zzz", "a.jsonl:7")
    assert "did you mean" not in str(e.value) and "economie_generale" in str(e.value)


def test_wrong_task_names_the_tasks():
    with pytest.raises(TaxonomyError, match=r"no task 'sectors' \(did you mean 'sector'\?\)"):
        read_taxonomy(REAL)["sectors"]


def test_missing_entry_is_named(tmp_path, data):
    del data["tasks"][0]["labels"][1]["display"]
    assert "tasks.0.labels.1.display: Field required" in refused(tmp_path, data)


@pytest.mark.parametrize("key", ["version", "tasks"])
def test_missing_top_level_key_is_named(tmp_path, data, key):
    del data[key]
    assert f"{key}: Field required" in refused(tmp_path, data)


def test_unknown_key_is_refused(tmp_path, data):
    data["tasks"][0]["labels"][0]["exemples"] = ["x"]
    assert "tasks.0.labels.0.exemples" in refused(tmp_path, data)


def test_identifier_must_be_ascii(tmp_path, data):
    data["tasks"][0]["labels"][0]["id"] = "Santé"
    assert "tasks.0.labels.0.id" in refused(tmp_path, data)


def test_repeats_are_refused(tmp_path, data):
    data["tasks"][0]["labels"][1]["id"] = "culture"
    assert "label of sujet defined twice: culture" in refused(tmp_path, data)
    data["tasks"][0]["labels"][1]["id"] = "sport"
    data["tasks"] *= 2
    assert "task defined twice: sujet" in refused(tmp_path, data)


def test_one_label_is_no_question(tmp_path, data):
    data["tasks"][0]["labels"].pop()
    assert "tasks.0.labels" in refused(tmp_path, data)


def test_not_yaml(tmp_path):
    assert "not valid YAML" in refused(tmp_path, "tasks: [")


def test_missing_file(tmp_path):
    with pytest.raises(TaxonomyError, match="cannot be read: No such file"):
        read_taxonomy(tmp_path / "none.yaml")
