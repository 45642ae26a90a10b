"""Comparing runs and the registry's gate, on runs written by hand into a real store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from presseco import tracking
from presseco.compare import compare_runs, read_run, run_compare
from presseco.compare_page import comparison_page
from presseco.config import read_config
from presseco.errors import StoreError
from presseco.promote import promote, rules

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
    command = "`presseco robustness --model dist/new`"
    assert not judged["invariance"].met
    assert judged["invariance"].found == f"not measured: run {command}"
    default = read_run(_run("camembert-mini · 5 articles", wrong=10), "presseco")
    assert rules(compare_runs(old, default), config)[-1].found.endswith("run `make robustness`")
    judged = {r.name.split(" ")[0]: r for r in rules(compare_runs(new, old), config)}
    assert not judged["worse"].met and judged["worse"].found == "mood"


# --- the decision -----------------------------------------------------------------------------


class Registry:
    """A registered model whose version 1 is champion and version 2 waits, each with its run."""

    def __init__(self, store: Path, wrong: int, robust: float) -> None:
        settings = read_config("configs/experiment/camembert-mini.yaml")
        self.config = settings.model_copy(update={"root": store})
        self.client, self.store = MlflowClient(), store
        self.runs = [_run("old", wrong=40), _run("new", wrong=wrong)]
        self.client.log_metric(self.runs[1], "robustness.invariance", robust)
        self.client.create_registered_model("net")
        for run in self.runs:
            self.client.create_model_version("net", f"/model/{run}", run, await_creation_for=0)
        self.client.set_registered_model_alias("net", "champion", "1")

    def promote(self, version: str | None = None) -> bool:
        return promote(self.config, "net", version, Console(width=200))

    def champion(self) -> str:
        return str(self.client.get_registered_model("net").aliases["champion"])

    def roles(self) -> list[str | None]:
        return [self.client.get_run(r).data.tags.get("role") for r in self.runs]

    def decisions(self) -> list[Any]:
        log = self.store / "build" / "promotions.jsonl"
        return [json.loads(x) for x in log.read_text("utf-8").splitlines()] if log.exists() else []


def test_challenger_that_passes_is_champion_from_now_on(store: Path, capsys: Any) -> None:
    found = Registry(store, wrong=10, robust=0.95)
    assert found.promote() is True
    assert found.champion() == "2" and found.roles() == ["former champion", "champion"]
    assert found.client.get_model_version("net", "2").tags == {"gate": "passed"}
    assert found.client.get_model_version("net", "1").tags == {}
    [decision] = found.decisions()
    assert (decision["champion"], decision["challenger"], decision["promoted"]) == ("1", "2", True)
    assert len(decision["rules"]) == 6 and all(r["met"] for r in decision["rules"])
    logged = mlflow.artifacts.load_dict(
        f"{found.client.get_run(found.runs[1]).info.artifact_uri}/promote.json"
    )
    assert logged == decision
    assert "net 2 is now champion (was 1)" in capsys.readouterr().out


def test_challenger_that_fails_one_rule_leaves_all_as_it_was(store: Path, capsys: Any) -> None:
    found = Registry(store, wrong=10, robust=0.5)
    assert found.promote("2") is False
    assert found.champion() == "1" and found.roles() == [None, None]
    assert found.client.get_model_version("net", "2").tags == {"gate": "failed"}
    [decision] = found.decisions()
    assert decision["promoted"] is False
    assert [r["name"] for r in decision["rules"] if not r["met"]] == ["invariance >= 0.9"]
    assert "net 2 does not become champion (was 1)" in capsys.readouterr().out


def test_champion_is_not_judged_against_itself(store: Path, capsys: Any) -> None:
    found = Registry(store, wrong=10, robust=0.95)
    assert found.promote("1") is False
    assert "net 1 is the champion already" in capsys.readouterr().out
    assert found.champion() == "1" and found.decisions() == []


@pytest.mark.parametrize("version", ["99", "two"])
def test_version_that_is_not_there_is_told_with_those_that_are(store: Path, version: str) -> None:
    found = Registry(store, wrong=10, robust=0.95)
    with pytest.raises(StoreError, match=f"'net' has no version '{version}'; it has: 1, 2$"):
        found.promote(version)
    with pytest.raises(StoreError, match="registered model 'no-net'"):
        promote(found.config, "no-net", None, Console())
    assert found.decisions() == []
