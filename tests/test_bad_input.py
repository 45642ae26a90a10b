"""What a user can get wrong: one clear line, exit code 1, and nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SHRINK, experiment, sets, write_lines
from presseco.__main__ import main

LONG = "La Bourse de Paris a terminé la séance en baisse, lestée par les valeurs bancaires. " * 3


@pytest.fixture
def refused(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a verb that must fail; return its one line, after looking at what it left."""

    def run(verb: str, *arguments: str, name: str = "baseline") -> str:
        before = left(project)
        first = {
            "data": ["--experiment", experiment(project, name)],
            "train": [experiment(project, name)],
            "predict": [],
        }[verb]
        overrides = [] if verb == "predict" else sets(SHRINK)
        assert main([verb, *first, *overrides, *arguments]) == 1
        error = capsys.readouterr().err.strip()
        assert error.startswith(f"presseco {verb}: ")
        assert len(error.splitlines()) == 1 and "Traceback" not in error
        assert left(project) == before
        return error

    return run


def left(project: Path) -> list[str]:
    """Return the corpus and models of a project, and anything unfinished beside them."""
    folders = (project / "build", project / "dist")
    found = [p for f in folders if f.exists() for p in f.rglob("*")]
    return sorted(str(p.relative_to(project)) for p in found if p.suffix != ".lock")


def add(project: Path, *rows: dict[str, Any] | str) -> None:
    write_lines(project / "data" / "articles" / "Z.jsonl", rows)


def row(**changes: Any) -> dict[str, Any]:
    good = {"id": "z1", "text": LONG, "sector": "finance", "event_type": "marche_boursier"}
    return good | {"sentiment": "negatif", "writer": "Z"} | changes


# --- the corpus -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["data", "train"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row(text=""), "Z.jsonl:2: 'text' is missing or empty"),
        (row(text="mot " * 500_000), "article z1: 1,999,999 characters, at most 100,000 allowed"),
        (row(sector="banques"), "Z.jsonl:2: sector is 'banques', which is no label"),
        (row(sentiment="négatif"), "did you mean 'negatif'"),
        ('{"id": "z1", "text": "La Bour', "Z.jsonl:2: broken JSON"),
    ],
    ids=["no text", "2 MB of text", "wrong label", "accented label", "broken line"],
)
def test_bad_article(project, refused, verb, line, message):
    add(project, row(id="z0"), line)
    assert message in refused(verb)


@pytest.mark.parametrize("verb", ["data", "train"])
def test_missing_taxonomy_entry(project, refused, verb):
    path = project / "configs" / "taxonomy.yaml"
    text = path.read_text("utf-8")
    path.write_text(text.replace("    display: Santé\n", "", 1), "utf-8")
    assert "taxonomy.yaml: tasks.0.labels.8.display: Field required" in refused(verb)


def test_missing_files(project, refused):
    (project / "configs" / "taxonomy.yaml").unlink()
    assert "taxonomy.yaml: cannot be read" in refused("data")
    shutil.rmtree(project / "data")
    shutil.copy(Path(__file__).parent.parent / "configs" / "taxonomy.yaml", project / "configs")
    assert "data/articles does not exist" in refused("data")


def test_bad_seed(project, refused):
    path = project / "seeds" / "labels.yaml"
    path.write_text(path.read_text("utf-8").replace("technologie", "technolgie", 1), "utf-8")
    assert "labels.yaml:3: sector is 'technolgie'" in refused("data")


# --- stores and disks -------------------------------------------------------------------------


def test_store_that_is_broken(project, refused):
    (project / "mlflow.db").write_text("no database " * 1000)
    error = refused("train")
    assert "refuses: file is not a database" in error and "MLFLOW_TRACKING_URI" in error


def test_folder_that_cannot_be_made(project, refused):
    (project / "build").write_text("in the way")
    assert "build/corpus: cannot be written" in refused("data")


def test_full_disk_in_the_corpus(project, refused, small_files):
    with small_files(20_000):
        error = refused("data")
    assert "build/corpus: cannot be written: " in error and "Nothing was changed" in error


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (500_000, r"tracking store sqlite:.*mlflow\.db refuses: .*disk I/O error"),
        # The store fits; the vocabulary's weights alone are 3 MB.
        (1_800_000, r"build/runs/camembert-mini-\w+/model: cannot be written: File too large"),
    ],
    ids=["in the store", "in the export"],
)
def test_full_disk_in_a_training(project, small_files, capsys, size, message):
    """The corpus is built and whole; no model, old or new, is half-written."""
    old = project / "dist" / "camembert"
    old.mkdir(parents=True)
    (old / "bundle.json").write_text("old")
    assert main(["data", "--experiment", experiment(project, "baseline"), *sets(SHRINK)]) == 0
    built = left(project)
    capsys.readouterr()
    with small_files(size):
        code = main(["train", experiment(project, "camembert-mini"), *sets(SHRINK)])
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 1 and len(error) == 1 and error[0].startswith("presseco train: ")
    assert re.search(message, error[0])
    assert [p.name for p in old.iterdir()] == ["bundle.json"]
    kept = ("build/runs", "build/points")  # what goes on from here, and scores of what has ended
    assert [p for p in left(project) if p not in built and not p.startswith(kept)] == []
    for point in (project / "build" / "points").glob("*"):
        assert json.loads(point.read_text("utf-8"))["model"] == "camembert-mini"
    models = [p for p in left(project) if "/model" in p]
    assert models == [], "a half-written model"


# --- predict ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no bundle.json here"),
        (lambda p: p.mkdir(), "no bundle.json here"),
        (lambda p: (p.mkdir(), (p / "bundle.json").write_text("{")), "not valid JSON"),
    ],
    ids=["no folder", "empty folder", "broken manifest"],
)
def test_model_that_is_none(project, refused, tmp_path, make, message):
    source = write_lines(tmp_path / "a.jsonl", [{"id": 1, "text": "x"}])
    make(tmp_path / "model")
    target = tmp_path / "b.jsonl"
    error = refused(
        "predict", *("--model", str(tmp_path / "model")), "--input", str(source), "--output",
        str(target),
    )  # fmt: skip
    assert message in error
    assert not list(tmp_path.glob("b.jsonl*"))


def test_help_and_version_need_nothing(capsys):
    for argument, found in (("--help", "train"), ("--version", "presseco 0.")):
        with pytest.raises(SystemExit) as e:
            main([argument])
        assert e.value.code == 0 and found in capsys.readouterr().out


def test_unknown_verb_is_refused(capsys):
    with pytest.raises(SystemExit) as e:
        main(["trian"])
    assert e.value.code == 2 and "invalid choice: 'trian'" in capsys.readouterr().err


def test_example_of_this_file_is_accepted(project, capsys):
    """The counterpart: what the tests above break is right before they break it."""
    add(project, row(id="z0"))
    assert main(["data", "--experiment", experiment(project, "baseline"), *sets(SHRINK)]) == 0
    lines = (project / "build" / "corpus" / "manifest.json").read_text("utf-8")
    assert json.loads(lines)["sizes"]["train"] == 111
