"""Every way to serve a bundle gives the golden answers: one table over all channels."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import needs
from conftest import ROOT

#: Largest probability difference from the golden file. fp32: float rounding. int8: rounding that
#: moves single values to the next integer, more so in a batch than alone, as at export.
ALLOWED = {"fp32": 1e-4, "int8": 0.02}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["parity"]


def test_comparison_finds_what_differs(script: ModuleType, tiny_bundle: Path) -> None:
    golden = script.Golden(tiny_bundle)
    exact = [golden.best(r["logits"]["fp32"]) for r in golden.rows]
    right = golden.compare("onnx fp32", "fp32", exact, 0.02)
    assert (right.equal, right.near, right.difference) == (right.answers, 0, 0.0)
    assert right.answers == 3 * len(golden.texts)
    task, labels = "sector", list(golden.want("fp32")[0]["sector"])
    other = next(x for x in labels if x != exact[0][task][0])
    wrong = [{**exact[0], task: (other, 0.5)}, *exact[1:]]
    found = golden.compare("onnx fp32", "fp32", wrong, 0.02)
    assert found.equal == found.answers - 1
    assert found.difference == pytest.approx(abs(0.5 - golden.want("fp32")[0][task][other]))
    with pytest.raises(RuntimeError, match="answers to"):
        golden.compare("node", "int8", exact[:-1], 0.02)


@pytest.mark.services
@pytest.mark.timeout(900)
def test_all_channels_give_the_golden_answers(
    script: ModuleType, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs.program("node", "nodejs")
    needs.program("npm")
    needs.program("java", "openjdk-17-jre-headless")
    needs.package("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    found = script.parity(tiny_bundle, tmp_path)
    print(script.table(found))
    assert {p.channel for p in found} == set(script.NAMES)
    for p in found:
        assert p.texts >= 20, p
        assert p.equal + p.near == p.answers, p
        assert p.near == 0 or p.precision == "int8", p
        assert p.difference <= ALLOWED[p.precision], p
    assert script.table(found).count("\n") == len(found) + 1
