"""The int8 graph: exact where it must be, independent of the batch, refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from presseco.errors import BundleError
from presseco.quantize import _GELU_FLOOR, _GELU_ZERO, _integers, write_int8


@pytest.fixture(scope="module")
def session(tiny_bundle: Path) -> Any:
    return ort.InferenceSession(tiny_bundle / "model.int8.onnx", providers=["CPUExecutionProvider"])


def run(session: Any, rows: list[list[int]], width: int, pad: int = 1) -> Any:
    tokens = np.full((len(rows), width), pad, np.int64)
    mask = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, 1
    return session.run(None, {"input_ids": tokens, "attention_mask": mask})[0]


def test_integers_keep_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    for axis in (0, 1):
        values, scale = _integers(weight, axis=axis)
        assert values.dtype == np.int8
        assert np.abs(values).max() == 127
        assert (np.abs(values * scale - weight) <= scale / 2 + 1e-7).all()


def test_zero_weights_stay_zero() -> None:
    values, scale = _integers(np.zeros((3, 2), np.float32), axis=0)
    assert not (values * scale).any()


def test_gelu_levels_hold_its_minimum() -> None:
    from scipy.special import erf

    x = np.linspace(-6, 6, 10_001)
    lowest = (x * (1 + erf(x / np.sqrt(2))) / 2).min()
    level = lowest / _GELU_FLOOR * (255 - _GELU_ZERO) + _GELU_ZERO
    assert level >= -0.5  # what rounds to the lowest level


def test_padding_and_company_change_little(tiny_bundle: Path, session: Any) -> None:
    lines = (tiny_bundle / "golden.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line)["input_ids"] for line in lines[:6]]
    alone = np.concatenate([run(session, [row], len(row)) for row in rows])
    together = run(session, [row[: len(row)] for row in rows], max(map(len, rows)) + 7)
    assert np.abs(alone - together).max() <= 0.02 * np.abs(alone).max() + 0.02


def test_large_products_are_integers(tiny_bundle: Path) -> None:
    graph = onnx.load(tiny_bundle / "model.int8.onnx").graph
    kinds = [n.op_type for n in graph.node]
    # Two layers: six in the first; in the last, for the first token only, keys and values.
    assert kinds.count("MatMulIntegerToFloat") == 6 + 2
    assert max(len(c.raw_data) for c in graph.initializer if c.data_type == 1) < 24000 * 32 * 4


def test_other_activation_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model.config.hidden_act = "relu"
    try:
        with pytest.raises(BundleError, match="this model has 'relu'"):
            write_int8(tiny_model, [[5, 6]], tmp_path / "x.onnx")
    finally:
        tiny_model.config.hidden_act = "gelu"
