"""The Node example gives Python's answers on the golden texts and on hostile ones."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import needs
from conftest import ROOT
from presseco.classifier import Classifier

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/node with its packages installed."""
    needs.program("node", "nodejs")
    needs.program("npm")
    source = ROOT / "examples" / "node"
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("node_modules"))
    env = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    command = ["npm", "install", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def node(example: Path, bundle: Path, precision: str, rows: list[dict[str, Any]]) -> list[Any]:
    done = subprocess.run(
        ["node", "main.mjs", str(bundle), precision],
        cwd=example,
        input="".join(json.dumps(r) + "\n" for r in rows),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def hostile(n: int) -> list[str]:
    rng = random.Random(0)
    pieces = [
        "LE CAC 40 CHUTE DE 3 % ",
        "l’été\u00a0",
        "\r\n",
        "\u2028",
        "\x00\x1f",
        "😀",
        "e\u0301",
    ]
    pieces += [
        "<p>",
        "الاقتصاد",
        "経済",
        "\u00ad",
        "\ufeff",
        " \t ",
        "Ǆ ÉNERGIE ŒUVRES ",
        "«\u202f5 Md€\u202f»",
    ]
    texts = ["".join(rng.choices(pieces, k=rng.randint(0, 30))) for _ in range(n)]
    return [*texts, "", "A" * 100_000, "😀é" * 30_000]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_answers_are_pythons(example: Path, tiny_bundle: Path, precision: str) -> None:
    lines = (tiny_bundle / "golden.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines] + hostile(200)
    titles = [None if i % 3 else f"Titre {i}" for i in range(len(texts))]
    rows = [
        {"id": i, "text": t, "title": h} for i, (t, h) in enumerate(zip(texts, titles, strict=True))
    ]
    theirs = node(example, tiny_bundle, precision, rows)
    classifier = Classifier.load(tiny_bundle, precision=precision)
    ours = [classifier.predict([t], [h])[0] for t, h in zip(texts, titles, strict=True)]
    assert [r["id"] for r in theirs] == list(range(len(texts)))
    for row, p in zip(theirs, ours, strict=True):
        for task, answer in p.answers.items():
            assert row[task]["probability"] == pytest.approx(answer.probability, abs=1e-3), row[
                "id"
            ]
            assert row[task]["label"] == answer.label
            assert row[task]["display"] == answer.display
            assert row[task]["abstained"] == answer.abstained


def test_flipped_byte_is_refused(example: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    data = bytearray((folder / "model.int8.onnx").read_bytes())
    data[1000] ^= 1
    (folder / "model.int8.onnx").write_bytes(data)
    command = ["node", "main.mjs", str(folder)]
    done = subprocess.run(
        command, cwd=example, input="", capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "model.int8.onnx: sha256 is" in done.stderr
