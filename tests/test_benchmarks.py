"""The training benchmarks start, and measure what they say; their figures are for free machines."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import needs
from conftest import ROOT


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flops_of_camembert_base_are_those_counted_by_hand():
    """77.9 M weights in 11 layers, 1.2 M for the last one's keys and values; attention's 6.6 G."""
    gpu = script("training_gpu")
    assert gpu.flops_per_document(gpu.SHAPE, 256) == pytest.approx(121.4e9 + 6.6e9, rel=0.002)


@pytest.mark.services
def test_gpu_benchmark_says_that_it_needs_a_gpu():
    command = [sys.executable, str(ROOT / "benchmarks" / "training_gpu.py")]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=hidden)
    assert done.returncode == 1 and "runs on a GPU only" in done.stderr


BOTH_SIDES = """
import training_gpu as gpu
shape = gpu.SHAPE | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
shape |= {"intermediate_size": 64, "vocab_size": 500}
print(gpu.ours(shape, 64, 32, 16, "cpu"), gpu.stock(shape, 64, 32, 16, "cpu"))
"""


@pytest.mark.services
def test_both_sides_of_the_gpu_benchmark_run_on_a_small_shape():
    needs.package("accelerate")
    # A process of its own: transformers looks for accelerate once, when it is first imported.
    command = [sys.executable, "-c", BOTH_SIDES]
    benchmarks = ROOT / "benchmarks"
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=benchmarks)
    assert done.returncode == 0, done.stderr
    ours, stock = map(float, done.stdout.split()[-2:])
    assert ours > 0 and stock > 0


@pytest.mark.services
def test_cpu_benchmark_runs_both_sides(tmp_path: Path):
    needs.package("accelerate")
    output = tmp_path / "training.json"
    sizes = ["--texts", "32", "--epochs", "1", "--tokens", "32", "--rounds", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "training.py"), *sizes]
    command += ["--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text("utf-8"))
    assert result["texts"] == 32 and len(result["ratios"]) == 1 and result["ratio_median"] > 0
    for side in result["rounds"].values():
        assert side[0]["docs_per_second"] > 0 and 0 <= side[0]["macro_f1"] <= 1
