"""Seeds: text files and labels.yaml, and what is said when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import ROOT
from presseco.errors import ArticleError, TaxonomyError
from presseco.seeds import read_seeds
from presseco.taxonomy import read_taxonomy

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
ENTRY = (
    "{name}:\n  sector: {sector}\n  event_type: incident\n  sentiment: negatif\n  why: Parce que.\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("Un titre\nUn texte.\n", encoding="utf-8")
    write(tmp_path, "energie", "energie")
    return tmp_path


def write(folder: Path, a: str, b: str) -> None:
    text = ENTRY.format(name="a.txt", sector=a) + ENTRY.format(name="b.txt", sector=b)
    (folder / "labels.yaml").write_text(text, encoding="utf-8")


def refused(folder: Path, error: type[Exception] = ArticleError) -> str:
    with pytest.raises(error) as e:
        read_seeds(folder, TAXONOMY)
    return str(e.value)


def test_seed(folder):
    seed = read_seeds(folder, TAXONOMY)[0]
    assert (seed.id, seed.title, seed.text, seed.writer) == (
        "seed-a",
        "Un titre",
        "Un titre\nUn texte.",
        "seeds",
    )
    assert seed.labels == {"sector": "energie", "event_type": "incident", "sentiment": "negatif"}


def test_wrong_label_names_file_and_line(folder):
    write(folder, "energie", "energi")
    text = refused(folder, TaxonomyError)
    assert text.startswith(f"{folder}/labels.yaml:7: sector is 'energi'")
    assert "did you mean 'energie'" in text


def test_missing_label_names_the_line_of_the_entry(folder):
    write(folder, "energie", "null")
    assert refused(folder).startswith(f"{folder}/labels.yaml:7: b.txt has no 'sector'")
    labels = folder / "labels.yaml"
    labels.write_text(labels.read_text("utf-8").replace("  sector: null\n", ""), encoding="utf-8")
    assert refused(folder).startswith(f"{folder}/labels.yaml:6: b.txt has no 'sector'")


def test_file_without_entry_and_entry_without_file(folder):
    (folder / "c.txt").write_text("x")
    assert "files and entries differ: c.txt" in refused(folder)
    (folder / "c.txt").unlink()
    (folder / "a.txt").unlink()
    assert "files and entries differ: a.txt" in refused(folder)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.txt: [", "not valid YAML"),
        ("- a", "expected file names and their labels"),
        ("", "expected file names and their labels"),
        ("a.txt: energie\nb.txt: x", "labels.yaml:1: a.txt has no labels"),
    ],
)
def test_labels_file_that_is_something_else(folder, text, found):
    (folder / "labels.yaml").write_text(text)
    assert found in refused(folder)


def test_missing_labels_file(folder):
    (folder / "labels.yaml").unlink()
    assert "labels.yaml: missing; expected one entry a seed file" in refused(folder)


def test_seed_that_is_empty_or_no_utf8(folder):
    (folder / "b.txt").write_text(" \n")
    assert f"{folder}/b.txt: empty" in refused(folder)
    (folder / "b.txt").write_bytes("é".encode("latin-1"))
    assert f"{folder}/b.txt: not UTF-8 (byte 0)" in refused(folder)
