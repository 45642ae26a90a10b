"""Comparing runs and the registry's gate, on runs written by hand into a real store."""

from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from presseco import tracking
from presseco.compare import compare_runs, read_run, run_compare
from presseco.compare_page import comparison_page
from presseco.config import read_config
from presseco.errors import StoreError
from presseco.promote import rules

LABELS = ["up", "down", "flat"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.connect(tmp_path, "presseco")
    return tmp_path


def _run(name: str, wrong: int, *, ids: int = 90, corpus: str = "c1", truth_shift: int = 0) -> str:
    truth = [LABELS[(i + truth_shift) % 3] for i in range(ids)]
    guess = [LABELS[(i + 1 + truth_shift) % 3] if i < wrong else t for i, t in enumerate(truth)]
    with tracking.run(name, tags={"purpose": "train"}) as active:
        mlflow.log_param("corpus_digest", corpus)
        table = {"id": [f"a{i}" for i in range(ids)], "mood_true": truth, "mood": guess}
        mlflow.log_table(table, "predictions_test.json")
        mlflow.log_metrics({"test.mood.ece": 0.02, "megabytes": 23.0, "docs_per_second": 30.0})
    return str(active.info.run_id)


def test_difference_flips_and_report(store: Path) -> None:
    a, b = _run("old", wrong=40), _run("new", wrong=10)
    c = compare_runs(read_run(a, "presseco"), read_run(b, "presseco"))
    (d,) = c.differences
    assert d.verdict == "better" and d.n == 90
    assert [f["change"] for f in c.flipped] == ["won"] * 30
    assert not c.worse
    page = comparison_page(c)
    assert "better" in page and "a10" in page and "<script" not in page


def test_exit_code_tells_a_clear_loss(store: Path) -> None:
    a, b = _run("good", wrong=5), _run("bad", wrong=45)
    assert run_compare(store, a, [b]) == 3
    assert run_compare(store, b, [a]) == 0
    assert list((store / "build/compare").glob("*.html"))


def test_several_runs_are_judged_and_the_worst_decides(store: Path, capsys) -> None:
    a, b, c = _run("good", wrong=5), _run("same", wrong=6), _run("bad", wrong=45)
    assert run_compare(store, a, [b]) == 0
    assert "no clear difference on mood" in capsys.readouterr().out.lower()
    assert run_compare(store, a, [c, b]) == 3
    assert "B is worse on mood." in " ".join(capsys.readouterr().out.split())
    attached = MlflowClient().list_artifacts(c, "compare")
    assert [f.path for f in attached] == [f"compare/good-{a[:8]}.html"]


def test_kappa_is_that_of_the_answers_with_the_truth(store: Path) -> None:
    right, wrong = _run("right", wrong=0), _run("wrong", wrong=30)
    c = compare_runs(read_run(right, "presseco"), read_run(wrong, "presseco"))
    # 60 of 90 right, every label a third of truth and answers: (2/3 - 1/3) / (1 - 1/3).
    assert c.kappa["mood"] == (1.0, pytest.approx(0.5))


def test_a_run_is_found_by_its_name(store: Path) -> None:
    _run("model · 5 articles", wrong=1)
    newest = _run("model · 5 articles", wrong=2)
    _run("model-tuned · 5 articles", wrong=3)
    assert read_run("model", "presseco").id == newest
    assert read_run("model · 5 articles", "presseco").id == newest


def test_a_run_is_not_compared_with_itself(store: Path) -> None:
    run = read_run(_run("model", wrong=1), "presseco")
    with pytest.raises(StoreError, match="one run"):
        compare_runs(run, run)


def test_runs_that_cannot_be_compared_are_refused(store: Path) -> None:
    a = read_run(_run("a", wrong=5), "presseco")
    other_truth = read_run(_run("b", wrong=5, truth_shift=1), "presseco")
    with pytest.raises(StoreError, match="different labels"):
        compare_runs(a, other_truth)
    with tracking.run("no predictions") as active:
        pass
    with pytest.raises(StoreError, match="no test predictions"):
        read_run(active.info.run_id, "presseco")
    with pytest.raises(StoreError, match="no-such-run"):
        read_run("no-such-run", "presseco")


def test_gate_names_the_rule_that_failed(store: Path) -> None:
    config = read_config("configs/experiment/camembert-mini.yaml")
    old, new = (
        read_run(_run("old", wrong=40), "presseco"),
        read_run(_run("new", wrong=10), "presseco"),
    )
    judged = {r.name.split(" ")[0]: r for r in rules(compare_runs(old, new), config)}
    assert judged["worse"].met and judged["better"].met and judged["size"].met
    assert not judged["invariance"].met and "make robustness" in judged["invariance"].found
    judged = {r.name.split(" ")[0]: r for r in rules(compare_runs(new, old), config)}
    assert not judged["worse"].met and judged["worse"].found == "mood"
