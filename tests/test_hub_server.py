"""Pushing a corpus and reading it back by name, through the hub's own client and a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from hub_server import TOKEN, Hub
from presses import lines

ARTICLES = 24
NAME = "equipe/presse"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of the real settings and some of our articles, as somebody's press."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    every = (ROOT / "data/articles/first-600.jsonl").read_text(encoding="utf-8").splitlines()
    press = tmp_path / "data/articles"
    press.mkdir(parents=True)
    (press / "press.jsonl").write_text("\n".join(every[:: 600 // ARTICLES]), encoding="utf-8")
    return tmp_path


def settings(project: Path, kind: str, **changes: object) -> str:
    """Change a shipped source file; return its path."""
    path = project / f"configs/source/{kind}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def data(project: Path, hub: Hub, *arguments: str, token: str = TOKEN):
    """Run the command in a process of its own: the client reads its settings once."""
    experiment = str(project / "configs/experiment/baseline.yaml")
    command = [sys.executable, "-m", "presseco", "data", "--experiment", experiment, "--workers"]
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(project / "hub-cache"),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # its chunk storage has no server of its own to try against
    }
    return subprocess.run(
        [*command, "0", *arguments], capture_output=True, text=True, check=False, env=environment
    )


def test_what_was_pushed_is_read_back_by_name(project, hub):
    folder = settings(project, "folder")
    done = data(project, hub, "--source", folder, "--online", "--push", NAME)
    assert done.returncode == 0, done.stderr
    assert f"pushed to {hub.url}/datasets/{NAME}" in done.stdout
    kept = hub.repositories[NAME]
    assert kept.private and any(path.endswith(".parquet") for path in kept.files)

    named = settings(project, "hub", input={"dataset": NAME}, keep={"near_duplicate": 1.0})
    done = data(project, hub, "--source", named, "--online")
    assert done.returncode == 0, done.stderr
    before = lines(project / "build/sources/folder/articles.jsonl")
    again = lines(project / "build/sources/hub/articles.jsonl")
    assert len(again) > ARTICLES / 2 and hub.refused == []  # the train split
    texts = {r["text"]: (r["sector"], r["event_type"], r["sentiment"]) for r in before}
    for row in again:
        assert texts[row["text"]] == (row["sector"], row["event_type"], row["sentiment"])

    hub.asked.clear()
    done = data(project, hub, "--source", named, "--online")
    assert done.returncode == 0, done.stderr
    assert hub.asked and not any("/resolve/" in path for path in hub.asked)  # no row a second time


def test_text_without_the_right_to_leave_stays(project, hub):
    rights = {"redistribute_text": False, "licence": "contract"}
    folder = settings(project, "folder", rights=rights)
    done = data(project, hub, "--source", folder, "--online", "--push", NAME)
    assert done.returncode == 0, done.stderr
    import pyarrow.parquet as pq

    where = project / "pushed.parquet"
    rows = 0
    for path, content in hub.repositories[NAME].files.items():
        if path.endswith(".parquet"):
            where.write_bytes(content)
            table = pq.read_table(where)
            rows += table.num_rows
            assert set(table["text"].to_pylist()) == set(table["title"].to_pylist()) == {""}
    assert rows == ARTICLES


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["--push", NAME], "hf_wrong", f"dataset {NAME}: the hub refused: "),
        (["--source", "hub"], TOKEN, "dataset owner/name: "),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(project, hub, arguments, token, message):
    which = arguments[1] if arguments[0] == "--source" else "folder"
    push = arguments if arguments[0] == "--push" else []
    done = data(project, hub, "--source", settings(project, which), "--online", *push, token=token)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("presseco data: ") and message in last and "hf auth login" in last
