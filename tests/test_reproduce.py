"""A run trained again from what it logged has the very same metrics; what differs is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from conftest import SHRINK, experiment, sets
from presseco import tracking
from presseco.__main__ import main
from presseco.config import read_config
from presseco.errors import ConfigError, StoreError
from presseco.registry import fetch_bundle
from presseco.reproduce import Change, Origin, metric_changes, origin_differences, read_origin

NAN = float("nan")


# --- fast ---------------------------------------------------------------------------------------


def test_every_metric_of_the_model_is_compared_and_none_of_the_machine():
    old = {"test.f1": 0.5, "c": 1.0, "gone": 1.0, "nan": NAN, "minutes": 3.0, "megabytes": 2.0}
    old |= {"docs_per_second": 9.0, "train.docs_per_second": 8.0, "train.seconds": 7.0}
    old |= {"robustness.invariance": 0.9}
    new = {"test.f1": 0.5 + 1e-12, "c": 1.0, "new": 1.0, "nan": NAN, "minutes": 4.0}
    changes = metric_changes(old, new)
    assert [c.metric for c in changes] == ["c", "gone", "nan", "new", "test.f1"]
    assert {c.metric for c in changes if c.same} == {"c", "nan"}
    assert not Change("a", None, None).same


class Digest:
    """A corpus of which only the digest is asked for."""

    digest = "d1"


def origin(project: Path, **changes: str) -> Origin:
    config = read_config(experiment(project, "baseline"))
    environment = tracking.environment() | {k: v for k, v in changes.items() if k == "numpy"}
    params = {"corpus_digest": "d1", "git_commit": tracking.git_commit(project)}
    params |= {k: v for k, v in changes.items() if k in params}
    return Origin("r1", "baseline", params, {}, config, environment)


def test_what_differs_is_said(project):
    assert origin_differences(origin(project), Digest()) == []
    commit, numpy = origin_differences(origin(project, git_commit="abc", numpy="0.1"), Digest())
    assert commit == "code is at commit none, the run was at abc"
    assert numpy.startswith("numpy is ") and numpy.endswith("the run had 0.1")


def test_another_corpus_is_refused_with_the_commit_to_go_to(project):
    with pytest.raises(ConfigError, match=r"corpus d2.*build d1.*Check out commit abc"):
        origin_differences(origin(project, corpus_digest="d2", git_commit="abc"), Digest())


def test_no_such_run_and_parent_run(project):
    tracking.connect(project, "presseco")
    with pytest.raises(StoreError, match="run 0123abc: cannot be read"):
        read_origin(project, "0123abc")
    with tracking.run("parent") as parent, tracking.run("child", nested=True) as child:
        pass
    with pytest.raises(StoreError, match=rf"Its runs: {child.info.run_id} \(child\)"):
        read_origin(project, parent.info.run_id)


def test_settings_that_this_code_does_not_know(project):
    tracking.connect(project, "presseco")
    with tracking.run("r") as run:
        mlflow.log_param("git_commit", "abc")
        mlflow.log_dict({"name": "x"}, "config.yaml")
        mlflow.log_dict({}, "environment.yaml")
    with pytest.raises(ConfigError, match=r"do not fit this code.*Check out commit abc"):
        read_origin(project, run.info.run_id)


def test_verb_names_the_run_that_is_not_there(project, capsys):
    assert main(["reproduce", "--run", "nosuch"]) == 1
    assert "run nosuch: cannot be read" in capsys.readouterr().err


def test_outside_a_project_nothing_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for verb in (["compare"], ["reproduce", "--run", "x"], ["sync"]):
        assert main(verb) == 1
        assert "configs/experiment/camembert-mini.yaml: cannot be read" in capsys.readouterr().err
    with pytest.raises(
        StoreError, match=r"mlflow.db is missing. Call this from the project folder"
    ):
        fetch_bundle("models:/presseco@champion")
    assert list(tmp_path.iterdir()) == []


# --- the whole way ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Path(shutil.copytree(template, tmp_path_factory.mktemp("trained") / "project"))
    names = [experiment(project, n) for n in ("baseline", "camembert-mini")]
    assert main(["train", *names, *sets(SHRINK)]) == 0
    return project


def run_of(project: Path, name: str) -> str:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    place = client.get_experiment_by_name("presseco").experiment_id
    query = f"attributes.run_name LIKE '{name} ·%' AND tags.purpose = 'train'"
    [run] = client.search_runs([place], query)
    return str(run.info.run_id)


@pytest.mark.services
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["baseline", "camembert-mini"])
def test_reproduced_without_a_difference(trained, name, tmp_path, monkeypatch, capsys):
    """From another folder, with the default experiment's settings in the files: the run's count."""
    monkeypatch.chdir(tmp_path)
    before = sorted(p for p in (trained / "dist").rglob("*"))
    args = ["--experiment", experiment(trained, "baseline")]
    code = main(["reproduce", "--run", run_of(trained, name), *args])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "0 of " in printed and "test.sector.macro_f1" in printed
    assert "docs_per_second" not in printed and "code was changed" not in printed
    assert list(tmp_path.iterdir()) == [], "nothing is written where it was called from"
    assert sorted(p for p in (trained / "dist").rglob("*")) == before
    client = MlflowClient(f"sqlite:///{trained}/mlflow.db")
    place = client.get_experiment_by_name("presseco").experiment_id
    query = f"tags.reproduces = '{run_of(trained, name)}'"
    [parent] = client.search_runs([place], query)
    assert parent.data.metrics["metrics_changed"] == 0
    assert parent.data.metrics["metrics_compared"] > 15
    versions = client.search_model_versions("")
    assert len(versions) == 2, "a reproduction registers no model"


@pytest.mark.services
@pytest.mark.timeout(900)
def test_a_difference_is_found(trained, capsys):
    """The run's settings say another seed than it was trained with: its metrics must differ."""
    client = MlflowClient(f"sqlite:///{trained}/mlflow.db")
    run = client.get_run(run_of(trained, "baseline"))
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    config = (folder / "config.yaml").read_text("utf-8")
    (folder / "config.yaml").write_text(config.replace("max_features: 2000", "max_features: 300"))
    args = ["--experiment", experiment(trained, "baseline")]
    try:
        assert main(["reproduce", "--run", run.info.run_id, *args]) == 3
    finally:
        (folder / "config.yaml").write_text(config)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert not last.startswith("0 of") and "metrics differ from run" in last


@pytest.mark.services
@pytest.mark.timeout(900)
def test_changed_articles_are_refused(trained, tmp_path, capsys):
    project = Path(shutil.copytree(trained, tmp_path / "project"))
    file = project / "data" / "articles" / "A.jsonl"
    first, *rest = file.read_text("utf-8").splitlines()
    row = json.loads(first) | {"text": "Le groupe a annoncé un autre résultat net. " * 6}
    file.write_text("\n".join([json.dumps(row), *rest]) + "\n", "utf-8")
    args = ["--experiment", experiment(project, "baseline")]
    assert main(["reproduce", "--run", run_of(project, "baseline"), *args]) == 1
    error = capsys.readouterr().err
    assert "was trained on corpus" in error and "Check out commit" in error
