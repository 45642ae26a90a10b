"""Learning curves: sizes, the picture, and the whole verb on tiny data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from matplotlib.image import imread
from mlflow.tracking import MlflowClient

from conftest import SHRINK, experiment, sets
from presseco.__main__ import main
from presseco.curve import HUMAN, _sizes, curve_figure
from presseco.curve_page import curve_sections


def test_sizes_rise_and_come_once():
    assert _sizes([100, 0, 300, 5000], 250) == [100, 250]
    assert _sizes([0], 250) == [250]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["curve", "--sizes", "100", "-5"], "argument --sizes: -5 is under 0"),
        (["ablate", "--size", "-5"], "argument --size: -5 is under 0"),
        (["ablate", "--size", "all"], "argument --size: 'all' is no whole number"),
        (["adapt", "--texts", "t", "--batch", "0"], "argument --batch: 0 is under 1"),
        (["adapt", "--texts", "t", "--epochs", "0"], "argument --epochs: 0 is under 1"),
        (["adapt", "--texts", "t", "--tokens", "2"], "argument --tokens: 2 is under 10"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_once(command, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert message in capsys.readouterr().err


def test_page_counts_a_seed_once_with_its_last_point(tmp_path):
    """Of the same articles, model and seed there are more points when the recipe has changed."""
    (tmp_path / "benchmarks").mkdir()
    every = [
        p | {"corpus": c, "test": {"sector": {"macro_f1": f}}, "key": f"{c}{f}"}
        for c, f in (("old", 0.1), ("new", 0.9), ("new", 0.4))
        for p in points()
        if p["seed"] < 3
    ]
    (tmp_path / "benchmarks" / "curve.json").write_text(json.dumps(every), "utf-8")
    table = "\n".join(curve_sections(tmp_path, "new"))
    assert "| 100 | a | 2 | 0.400 ± 0.000 |" in table and "| 300 | b | 2 | 0.400" in table


def test_page_keeps_an_earlier_corpus_where_the_test_split_is_the_same(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    score = {"macro_f1": 0.5}
    every = [
        {"model": "m", "articles": n, "seed": s, "corpus": c, "test": {"sector": score}} | split
        for n, s, c, split in (
            (100, 1, "old", {"test_split": "same"}),
            (100, 2, "old", {"test_split": "same"}),
            (200, 1, "old", {"test_split": "other"}),
            (300, 1, "old", {}),
            (400, 1, "old", {"test_split": "same"}),
            (400, 2, "old", {"test_split": "same"}),
            (400, 1, "new", {"test_split": "same"}),
        )
    ]
    (tmp_path / "benchmarks" / "curve.json").write_text(json.dumps(every), "utf-8")
    page = "\n".join(curve_sections(tmp_path, "new"))
    assert "| 100 | m | 2 |" in page and "| 400 | m | 1 |" in page
    assert "| 200 |" not in page and "| 300 |" not in page
    assert "The points of 100 articles are of an earlier corpus" in page
    said = "not the corpus of the tables above"
    assert said not in page and said in "\n".join(curve_sections(tmp_path, "newest"))


def test_page_says_which_points_were_trained_without_word_logits(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    every = [p | {"corpus": "c", "test": {"sector": {"macro_f1": 0.5}}} for p in points()]
    for p in every:
        if p["model"] == "b" and p["articles"] == 300:
            p["word_gain"] = {"validation": 0.02, "test": 0.01 + p["seed"] / 1000}
    (tmp_path / "benchmarks" / "curve.json").write_text(json.dumps(every), "utf-8")
    page = "\n".join(curve_sections(tmp_path, "c"))
    assert "The points of 100 articles are of an earlier recipe" in page
    assert "| 300 | b | 3 | **+0.020** (+0.020 to +0.020) | **+0.012** (+0.010 to +0.014) |" in page


def points() -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "articles": n,
            "seed": seed,
            "test": {t: {"macro_f1": 0.1 * seed + n / 1000} for t in ("sector", "own_task")},
        }
        for model in ("a", "b")
        for n in (300, 100)
        for seed in (1, 2, 3)
    ]


def test_picture_has_means_bands_and_the_agreement_of_humans():
    figure = curve_figure(points())
    left, right = figure.axes
    line = left.get_lines()[0]
    assert line.get_xdata().tolist() == [100, 300]
    assert line.get_ydata().tolist() == pytest.approx([0.3, 0.5])
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(0.2) and band.max() == pytest.approx(0.6)
    ceiling = [x for x in left.get_lines() if x.get_linestyle() == "--"]
    assert [x.get_ydata()[0] for x in ceiling] == [HUMAN["sector"]]
    assert f"κ = {HUMAN['sector']}" in " ".join(t.get_text() for t in left.texts)
    assert all(x.get_linestyle() != "--" for x in right.get_lines()), "no figure for own tasks"


@pytest.mark.services
def test_curve_of_a_tiny_project(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    names = ("baseline", "frozen", "camembert-mini")
    files = [experiment(project, n) for n in names]
    sizes = ["--sizes", "40", "0", "--seeds", "1", "2", "3"]
    assert main(["curve", *files, *sizes, *sets(SHRINK)]) == 0
    path = project / "benchmarks" / "curve.json"
    first = json.loads(path.read_text("utf-8"))
    assert len(first) == 18 and len({p["key"] for p in first}) == 18
    whole = max(p["articles"] for p in first)
    assert {p["articles"] for p in first} == {40, whole} and whole > 40
    assert imread(project / "docs" / "figures" / "curve.png").std() > 0

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("presseco").experiment_id])
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(runs) == 19 and {r.info.status for r in runs} == {"FINISHED"}
    logged = client.get_metric_history(parent.info.run_id, "frozen.sector.macro_f1")
    assert [m.step for m in logged] == [40, whole]
    assert {f.path for f in client.list_artifacts(parent.info.run_id)} == {
        *("learning_curve.png", "learning_curve.json"),
    }

    # Again: nothing is computed. With other settings of one model: only that model is.
    kept = project / "build" / "points"
    assert main(["curve", *files, *sizes, *sets(SHRINK)]) == 0
    assert json.loads(path.read_text("utf-8")) == first and len(list(kept.iterdir())) == 18
    other = [*sets(SHRINK), "--set", "baseline.c_grid=[9.0]"]
    assert main(["curve", *files, "--sizes", "40", "--seeds", "1", *other]) == 0
    assert len(list(kept.iterdir())) == 19
