"""The results page groups the test's writers by how they wrote."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from presseco import results


def test_writers_are_grouped_by_their_manner(monkeypatch: Any) -> None:
    right = {
        "TA": [True, True],
        "TG": [True, False],
        "TH": [False, False],
        "TI": [True, True, False],
        "TJ": [True],
    }
    monkeypatch.setattr(
        results, "_predictions", lambda row: {w: {"sector": v} for w, v in right.items()}
    )
    row: Any = SimpleNamespace(name="m", metrics={"test.sector.macro_f1": 0.5})
    lines = {
        line.split(" | ")[0].strip("| "): line for line in results._writers_table([row]).split("\n")
    }
    assert lines["TI"] == "| TI | 3 | 0.667 |"
    assert lines["to a table of labels"].startswith("| to a table of labels | 2 | 1.000")
    assert lines["by subject, wandering"].startswith("| by subject, wandering | 4 | 0.250 (0.05")
    assert lines["by subject, plain"].startswith("| by subject, plain | 4 | 0.750 (0.30")


def test_note_names_the_writers_of_the_test_alone() -> None:
    assert results._tested(results.WANDERING) == "TG, TH"
    assert results._tested(results.PLAIN) == "TI, TJ, TK, TL"
