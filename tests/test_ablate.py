"""The ablation: its file, pairing over seeds, the table, and the whole verb on tiny data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from conftest import ROOT, SHRINK, experiment, sets
from presseco.__main__ import main
from presseco.ablate import _batch, read_plan
from presseco.ablation import BASE, ablation_table, compare_to_base, gain_table, paired_difference
from presseco.config import read_config
from presseco.errors import ConfigError


def write_plan(project: Path, text: str) -> Path:
    path = project / "configs" / "mine.yaml"
    path.write_text(f"experiment: experiment/camembert-mini.yaml\ndifferences:\n{text}", "utf-8")
    return path


def test_our_file_is_valid():
    plan = read_plan(ROOT / "configs" / "ablation.yaml")
    assert len(plan.differences) >= 10
    for overrides in plan.differences.values():
        read_config(plan.experiment, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  a: {camembert.epoch: 3}\n", r"mine.yaml: a: .*did you mean 'epochs'"),
        ("  a: 3\n", "a: expected settings, such as"),
        ("  a: {camembert.epochs: [\n", "mine.yaml: not valid YAML: "),
        ("  base: {camembert.epochs: 3}\n", "'base' is the name of the unchanged recipe"),
    ],
)
def test_mistakes_in_the_file(project, text, message):
    with pytest.raises(ConfigError, match=message):
        read_plan(write_plan(project, text))


def test_unknown_difference_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no difference 'no-averag' \(did you mean 'no-average'"):
        read_plan(ROOT / "configs" / "ablation.yaml", ["no-averag"])


# --- pairing ----------------------------------------------------------------------------------


def point(difference: str, seed: int, score: float, batch: str = "b") -> dict[str, Any]:
    scores = {t: {"macro_f1": score + d, "accuracy": 0.5} for t, d in (("a", 0.0), ("b", 0.1))}
    return {
        "batch": batch,
        "difference": difference,
        "change": [] if difference == BASE else ["camembert.average=0.0"],
        "epochs": 4,
        "key": f"{batch}{difference}{seed}",
        "model": "m",
        "seed": seed,
        "articles": 100,
        "corpus": "c",
        "commit": "0",
        "seconds": 60.0,
        "validation": scores,
    }


def test_interval_is_students_t_of_the_differences():
    """Five differences with mean 3 and sd sqrt(2.5): half width 2.776 x sd / sqrt(5)."""
    found = paired_difference([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3.0, 5)
    assert found.high - found.mean == pytest.approx(2.7764 * 2.5**0.5 / 5**0.5, rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_one_seed_claims_nothing():
    found = paired_difference([0.3])
    assert found.low == float("-inf") and "**" not in str(found) and "one seed" in str(found)


def test_only_seeds_of_both_sides_are_paired():
    points = [point(BASE, s, 0.5 + s / 10) for s in (1, 2, 3)]
    points += [point("x", s, 0.4 + s / 10) for s in (2, 3, 4)]
    found = compare_to_base(points)["x", ("camembert.average=0.0",)]
    assert found["a"].n == 2 and found["a"].mean == pytest.approx(-0.1)
    assert found["mean"].mean == pytest.approx(-0.1)
    assert found["a"].high < 0 and str(found["a"]).startswith("**-0.100**")


def test_an_edited_difference_is_another_and_a_point_counts_once():
    points = [point(BASE, s, 0.5) | {"base": ["camembert.max_tokens=128"]} for s in (1, 2, 3)]
    points += [point("x", s, 0.4) for s in (1, 2, 3)]
    edited = {"change": ["camembert.average=0.5"], "commit": "1"}
    points += [point("x", s, 0.3) | edited | {"seconds": 60.0 * 10**s} for s in (1, 2, 3)]
    points += [point("x", 2, 0.3) | edited | {"seconds": 120.0, "key": "again"}]
    table = ablation_table(points)
    assert "## 100 articles, 4 epochs, 3 seeds, camembert.max_tokens=128\n" in table
    assert "commits `0`, `1`," in table
    lines = {x.split("`")[1]: x for x in table.splitlines() if x.startswith("| x<br>")}
    assert list(lines) == ["camembert.average=0.5", "camembert.average=0.0"]
    assert "| 3 | **-0.200**" in lines["camembert.average=0.5"]
    assert "| 3 | **-0.100**" in lines["camembert.average=0.0"]
    assert lines["camembert.average=0.5"].endswith("| 10.0 |"), "median of 10, 2 and 1,000"


def test_other_settings_of_the_base_are_another_batch(project):
    batches = set()
    for overrides in ([], ["camembert.epochs=9"], ["distil.teacher=a"], ["distil.teacher=b"]):
        base = read_config(experiment(project, "camembert-mini"), overrides)
        batches |= {_batch(base, "c", 40), _batch(base, "d", 40), _batch(base, "c", 50)}
    assert len(batches) == 12


def test_batches_do_not_mix_and_the_newest_comes_first():
    points = [point(BASE, 1, 0.5, "old"), point("x", 1, 0.4, "old"), point(BASE, 1, 0.9, "new")]
    table = ablation_table([*points, point("x", 1, 0.7, "new")])
    assert table.index("batch `new`") < table.index("batch `old`")
    assert "-0.200 (one seed)" in table and "-0.100 (one seed)" in table
    assert "0.950" in table, "mean of the tasks of the new base"


# --- the verb ---------------------------------------------------------------------------------


@pytest.mark.services
def test_ablation_of_a_tiny_project(project, monkeypatch, capsys):
    """Two differences, two seeds, on a cut; what is there already is not computed again."""
    monkeypatch.chdir(project)
    plan = write_plan(
        project, "  still: {camembert.average: 0.0}\n  other: {camembert.warmup: 0.5}\n"
    )
    command = ["ablate", "--file", str(plan), "--size", "40", "--seeds", "1", "2"]
    assert main([*command, "--only", "still", *sets(SHRINK)]) == 0
    points = json.loads((project / "benchmarks" / "ablation.json").read_text("utf-8"))
    assert [(p["difference"], p["seed"]) for p in points] == [
        *((BASE, 1), ("still", 1), (BASE, 2), ("still", 2)),
    ]
    assert all(p["base"] == SHRINK for p in points)
    assert {p["articles"] for p in points} == {40} and len({p["batch"] for p in points}) == 1
    assert all("test" not in p and p["seconds"] > 0 for p in points)
    table = (project / "docs" / "ablation.md").read_text("utf-8")
    assert "camembert.average=0.0" in table and "40 articles, 2 epochs, 2 seeds" in table

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    [found] = [e for e in client.search_experiments() if e.name == "presseco"]
    runs = client.search_runs([found.experiment_id])
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(children) == 4 and {r.info.status for r in runs} == {"FINISHED"}
    by_name = {(r.data.params["difference"], int(r.data.params["seed"])): r for r in children}
    for p in points:
        logged = by_name[p["difference"], p["seed"]].data.metrics
        for task, scores in p["validation"].items():
            assert logged[f"validation.{task}.macro_f1"] == scores["macro_f1"]

    before = {f: f.stat().st_mtime_ns for f in (project / "build" / "points").iterdir()}
    assert len(before) == 4
    capsys.readouterr()
    assert main([*command, "--only", "still", *sets(SHRINK)]) == 0
    assert {f: f.stat().st_mtime_ns for f in (project / "build" / "points").iterdir()} == before
    assert json.loads((project / "benchmarks" / "ablation.json").read_text("utf-8")) == points

    # What the base does already is no difference, and is said.
    same = [*command[:-2], "1", "--only", "other", *sets(SHRINK), "--set", "camembert.warmup=0.5"]
    assert main(same) == 0
    assert "other: the base does this already" in capsys.readouterr().out
    assert len(list((project / "build" / "points").iterdir())) == 5

    # Another recipe is another batch: nothing of the first is taken for it.
    more = [*sets(SHRINK), "--set", "camembert.weight_decay=0.2"]
    assert main([*command[:-2], "1", "--only", "still", *more]) == 0
    points = json.loads((project / "benchmarks" / "ablation.json").read_text("utf-8"))
    assert len(points) == 7 and len({p["batch"] for p in points}) == 3


def test_gains_are_told_by_size_with_their_interval():
    points = [
        {"articles": n, "model": "m", "word_gain": {"validation": g, "test": g / 2}}
        for n, g in ((300, 0.02), (100, 0.05), (300, 0.03), (300, 0.04))
    ]
    lines = gain_table([*points, {"articles": 300, "model": "baseline"}]).splitlines()
    assert lines[2] == "| 100 | m | 1 | +0.050 (one seed) | +0.025 (one seed) |"
    assert (
        lines[3]
        == "| 300 | m | 3 | **+0.030** (+0.005 to +0.055) | **+0.015** (+0.003 to +0.027) |"
    )
    assert gain_table([{"articles": 300, "model": "baseline"}]) == ""
