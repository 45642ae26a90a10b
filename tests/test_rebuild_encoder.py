"""Rebuilding the encoder: the 4-bit format, the losses, and the script on a made-up recipe."""

from __future__ import annotations

import importlib.util
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT
from presseco.encoder import load_model
from presseco.taxonomy import read_taxonomy

SCRIPT = ROOT / "scripts" / "rebuild_encoder.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("rebuild_encoder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rebuild_encoder"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_block_by_hand(script):
    """Scale 0.5; byte i holds weight i in its low and weight 16 + i in its high four bits."""
    body = np.array([i | (15 - i) << 4 for i in range(16)], dtype=np.uint8)
    block = np.concatenate([np.frombuffer(np.float16(0.5).tobytes(), np.uint8), body])
    [row] = script.dequantise(block, 32)
    assert row[:16].tolist() == [(i - 8) * 0.5 for i in range(16)]
    assert row[16:].tolist() == [(7 - i) * 0.5 for i in range(16)]


def test_layers_that_the_student_starts_from(script):
    assert script.taught_by(6) == [1, 3, 5, 7, 9, 11]
    assert script.taught_by(4) == [2, 5, 8, 11] and script.taught_by(12) == list(range(12))


def recipe(folder: Path) -> Path:
    """A random teacher in the recipe's format, and a text; small numbers keep the states finite."""
    rng, arrays = np.random.default_rng(0), {}

    def matrix(rows: int, columns: int) -> Any:
        n = rows * columns // 32
        scale = np.full((n, 1), 0.01, np.float16).view(np.uint8)
        return np.concatenate([scale, rng.integers(0, 256, (n, 16), np.uint8)], axis=1).reshape(-1)

    def norm(name: str) -> None:
        arrays[f"f:{name}.w"] = np.ones(384, np.float16)
        arrays[f"f:{name}.b"] = np.zeros(384, np.float16)

    arrays["q:emb.word"] = matrix(24000, 384)
    for name, rows in (("emb.pos", 512), ("emb.type", 2)):
        arrays[f"f:{name}"] = (rng.normal(0, 0.02, (rows, 384))).astype(np.float16).reshape(-1)
    norm("emb.ln")
    for i in range(12):
        for part in ("q", "k", "v", "ao", "fi", "fo"):
            shape = {"fi": (1536, 384), "fo": (384, 1536)}.get(part, (384, 384))
            arrays[f"q:l{i}.{part}.w"] = matrix(*shape)
            arrays[f"f:l{i}.{part}.b"] = np.zeros(shape[0], np.float16)
        norm(f"l{i}.aln")
        norm(f"l{i}.oln")
    np.savez(folder / "teacher.npz", **arrays)
    lines = (ROOT / "data/articles/first-600.jsonl").read_text("utf-8").splitlines()[:20]
    texts = [json.loads(line)["text"].replace("\n", "\\n") for line in lines]
    (folder / "text.xz").write_bytes(lzma.compress("\n".join(texts).encode()))
    return folder


@pytest.mark.services
def test_student_equal_to_its_teacher_has_no_loss_and_the_script_writes_an_encoder(
    script, tmp_path
):
    folder = recipe(tmp_path)
    weights = script.teacher_weights(folder / "teacher.npz")
    teacher = script.new_model(weights, list(range(12)))
    stream = np.arange(5, 900, dtype=np.uint16)
    lessons = script.Lessons(stream, teacher, list(range(12)), False, 128)
    ids = lessons.blocks(3, 64, np.random.default_rng(0))
    assert ids.shape == (3, 64) and ids[:, 0].tolist() == [0] * 3 and ids[:, -1].tolist() == [2] * 3
    with torch.no_grad():
        same, _ = lessons.losses(teacher, ids)
        lessons.taught = script.taught_by(2)
        other, _ = lessons.losses(script.new_model(weights, lessons.taught), ids)
    # A teacher is told apart from itself only by <s>, which is to equal the mean of its states.
    assert float(same) < float(other)

    command = [
        sys.executable,
        str(SCRIPT),
        "--recipe",
        str(folder),
        "--layers",
        "2",
        "--steps",
        "3",
    ]
    command += ["--tokens-per-step", "512", "--held-out", "32", "--precision", "fp32"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads((tmp_path / "out" / "rebuild.json").read_text("utf-8"))
    assert figures["after"]["loss"] < figures["before"]["loss"]
    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
    assert len(load_model(tmp_path / "out", taxonomy.task_map).roberta.encoder.layer) == 2


@pytest.mark.services
def test_missing_recipe_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--recipe", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "teacher.npz is missing" in done.stderr
