"""The verb `data` from a source file to a dataset that the `datasets` library loads alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from presseco.__main__ import main
from presseco.article import Article
from presseco.config import read_config
from presseco.data import describe_leaks, for_source
from presseco.leak import inflation, table
from presseco.source import read_source
from presses import lines


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with the real settings and 60 of our articles as somebody's press."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    lines_ = (ROOT / "data" / "articles" / "first-600.jsonl").read_text(encoding="utf-8")
    press = tmp_path / "data" / "articles"
    press.mkdir(parents=True)
    (press / "press.jsonl").write_text("\n".join(lines_.splitlines()[::10]), encoding="utf-8")
    (press / "scan.pdf").write_bytes(b"%PDF")
    return tmp_path


def data(project: Path, *arguments: str) -> int:
    experiment = str(project / "configs" / "experiment" / "baseline.yaml")
    return main(["data", "--experiment", experiment, "--workers", "1", *arguments])


def folder(project: Path) -> str:
    return str(project / "configs" / "source" / "folder.yaml")


def test_a_source_becomes_a_dataset_with_class_labels(project, capsys):
    assert data(project, "--source", folder(project)) == 0
    said = capsys.readouterr().out
    assert "61 articles read = 60 kept in 60 stories + 1 in quarantine; 60 labelled" in said
    assert "leaks: " in said
    assert said.splitlines()[-1].startswith("corpus ")
    script = (
        "import sys; from datasets import load_from_disk, load_dataset; "
        "d = load_from_disk(sys.argv[1] + '/dataset'); "
        "p = load_dataset('parquet', data_files=sys.argv[1] + '/train.parquet', split='train'); "
        "f = p.features['event_type']; print(f.int2str(p[0]['event_type']), sum(map(len, d.values())))"
    )
    out = project / "build" / "sources" / "folder" / "corpus"
    found = subprocess.run(
        [sys.executable, "-c", script, str(out)], capture_output=True, text=True, check=True
    )
    label, size = found.stdout.split()
    assert label in {"resultats", "fusion_acquisition"} | {
        r["event_type"] for r in lines(out.parent / "articles.jsonl")
    }
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert int(size) == sum(manifest["sizes"].values()) - manifest["sizes"]["out_of_domain"]


def test_a_second_run_changes_nothing(project, capsys):
    data(project, "--source", folder(project))
    first = capsys.readouterr().out.splitlines()[-1].split()[1]
    assert data(project, "--source", folder(project)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"corpus {first} unchanged")


def test_a_source_without_articles_says_where_the_reasons_are(project, capsys):
    (project / "data" / "articles" / "press.jsonl").unlink()
    assert data(project, "--source", folder(project)) == 1
    said = capsys.readouterr()
    assert "no article is left" in said.err and "quarantine.jsonl" in said.err
    assert "file_type 1" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "none.yaml"], "none.yaml: cannot be read"),
        (["--push", "owner/name"], "--push needs --source"),
        (["--source", str(ROOT / "configs/source/feed.yaml")], "say so with --online"),
        (["--source", str(ROOT / "configs/source/hub.yaml")], "say so with --online"),
    ],
)
def test_a_mistake_is_one_line(project, capsys, arguments, message):
    assert data(project, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("presseco data: ") and error.count("\n") == 1


def test_the_source_decides_on_the_split(project):
    path = Path(folder(project))
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["split"] = {"by": "time", "validation_writers": ["v"], "test_writers": ["t"]}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    base = read_config(project / "configs" / "experiment" / "baseline.yaml")
    corpus = for_source(base, read_source(path)).corpus
    assert (corpus.split_by, corpus.validation_writers, corpus.test_writers) == (
        "time",
        ["v"],
        ["t"],
    )
    assert (corpus.seeds, corpus.near_duplicate) == (None, None)
    assert corpus.taxonomy == base.corpus.taxonomy


def test_leaks_are_told_in_one_line():
    assert "shares no writer, company or story" in describe_leaks({"story, train and test": 0})
    found = describe_leaks({"story, train and test": 3, "company, train and test": 0})
    assert "3 story, train and test" in found and "company" not in found


# --- how much a random split flatters


def told_four_times() -> list[Article]:
    """40 stories of random words, four near-copies each: only who saw a copy knows the label."""
    import random

    chance = random.Random(3)
    words = ["".join(chance.choices("abcdefghij", k=6)) for _ in range(3000)]
    out = []
    for story in range(40):
        text = chance.choices(words, k=60)
        label = ("energie", "finance")[story % 2]
        for copy in range(4):
            body = " ".join([*text[: 50 + copy], *chance.choices(words, k=10)])
            out.append(
                Article(
                    f"{story}-{copy}",
                    body,
                    {"sector": label, "event_type": None},
                    story=str(story),
                    writer="w",
                )
            )
    return out


def test_a_random_split_flatters_where_stories_are_told_again():
    articles = told_four_times()
    found = inflation(articles, [a.story for a in articles], "sector")
    assert found.articles == 160
    assert found.random > 0.95
    assert found.grouped["story"] is not None and found.grouped["story"] < 0.7
    assert found.gain("story") == found.random - found.grouped["story"]
    # One writer and no company: nothing to divide by.
    assert found.grouped["writer"] is None and found.grouped["company"] is None
    assert "| sector | 160 |" in table([found])


def test_it_does_not_flatter_where_every_story_is_told_once():
    once = [a for a in told_four_times() if a.id.endswith("-0")]
    found = inflation(once, [a.id for a in once], "sector")
    assert found.grouped == {"story": None, "company": None, "writer": None}
