"""A store's runs on another store: all of it, once, wherever the copying was cut off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.tracking import MlflowClient

from presseco import tracking
from presseco.mirror import SPOOL, Ledger, Mirror

NAME = "essai"
POINTS = 5


@pytest.fixture
def stores(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A store with a parent, two runs and a registered model; and an empty one."""
    other = tmp_path / "there"
    other.mkdir()
    shutil.copy(project / "mlflow.db", other)
    monkeypatch.chdir(other)  # where a SQLite store puts the files of runs that name no place
    local = tracking.connect(project, NAME)
    with tracking.run("parent", tags={"purpose": "train"}):
        for name in ("one", "two"):
            with tracking.run(name, nested=True) as run:
                mlflow.log_params({"seed": 1, "name": name})
                for step in range(POINTS):
                    mlflow.log_metrics({"f1": step / 10, "nan": float("nan")}, step=step)
                mlflow.log_text("x", "a/b.txt")
                mlflow.log_text(name, "c.txt")
                data = mlflow.data.from_pandas(pd.DataFrame({"id": ["1"]}), name="train")
                mlflow.log_input(data, context="training")
            if name == "two":
                _register(run)
    there = f"sqlite:///{other}/mlflow.db"
    mlflow.set_tracking_uri(there)  # a SQLite registry looks models up in the global store
    return local, there


def _register(run: Any) -> None:
    client, run_id = MlflowClient(), run.info.run_id
    model = client.create_logged_model(run.info.experiment_id, "m", run_id, params={"seed": "1"})
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    point = Metric("f1", 0.4, 1, 0, model_id=model.model_id, run_id=run_id)
    client.log_batch(run_id, metrics=[point])
    folder = Path("model")
    folder.mkdir()
    place = model.artifact_location
    (folder / "MLmodel").write_text(f"{place}\nmodel_id: {model.model_id}\nrun_id: {run_id}\n")
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model("net")
    client.create_model_version("net", f"models:/{model.model_id}", run_id, description="good")


def check(there: str) -> None:
    """Fail unless the copy holds all of the fixture's store once."""
    client = MlflowClient(there, registry_uri=there)
    found = client.search_runs([client.get_experiment_by_name(NAME).experiment_id])
    runs = {r.info.run_name: r for r in found}
    assert len(found) == len(runs) == 3
    assert {r.info.status for r in found} == {"FINISHED"} and all(r.info.end_time for r in found)
    for name in ("one", "two"):
        run = runs[name]
        run_id = run.info.run_id
        assert run.data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
        assert run.data.params == {"seed": "1", "name": name}
        steps = [m.step for m in client.get_metric_history(run_id, "f1") if m.timestamp > 1]
        assert sorted(steps) == list(range(POINTS))
        assert len(client.get_metric_history(run_id, "nan")) == POINTS
        assert {f.path for f in client.list_artifacts(run_id)} == {"a", "c.txt"}
        assert [f.path for f in client.list_artifacts(run_id, "a")] == ["a/b.txt"]
        assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["train"]
    [version] = client.search_model_versions("name = 'net'")
    two = runs["two"]
    assert version.run_id == two.info.run_id and version.description == "good"
    assert client.get_model_version_by_alias("net", "champion").version == version.version
    [output] = two.outputs.model_outputs
    [model] = client.search_logged_models([two.info.experiment_id])
    assert version.source == f"models:/{model.model_id}" == f"models:/{output.model_id}"
    assert str(model.status) == "READY" and model.source_run_id == two.info.run_id
    assert [(m.key, m.value) for m in model.metrics] == [("f1", 0.4)]
    card = Path(mlflow.artifacts.download_artifacts(f"{model.artifact_location}/MLmodel"))
    wanted = [model.artifact_location, f"model_id: {model.model_id}", f"run_id: {version.run_id}"]
    assert card.read_text().splitlines() == wanted


def test_everything_arrives_once(stores, tmp_path):
    local, there = stores
    ledger = tmp_path / "sent.jsonl"
    first = Mirror(local, there, NAME, Ledger(ledger))
    assert len(first.waiting()) == 3 and first.send() == 3
    check(there)
    for again in (first, Mirror(local, there, NAME, Ledger(ledger))):
        assert again.waiting() == [] and again.send() == 0
    check(there)


def test_without_its_ledger_nothing_is_there_twice(stores, tmp_path):
    """The server moved, or the ledger is lost: all is looked for before it is made."""
    local, there = stores
    for name in ("a", "b"):
        assert Mirror(local, there, NAME, Ledger(tmp_path / name)).send() == 3
    check(there)


class Killed(BaseException):
    """Ends a pass at once, as a kill does."""


class Fragile(Ledger):
    """A ledger whose process dies when it keeps its n-th thing, before or after it is on disk."""

    def __init__(self, path: Path, after: int, written: bool) -> None:
        super().__init__(path)
        self.left, self.written = after, written

    def keep(self, key: str, value: str = "") -> str:
        self.left -= 1
        if self.left < 0:
            if self.written:
                super().keep(key, value)
            raise Killed
        return super().keep(key, value)


@pytest.mark.parametrize("written", [True, False])
def test_cut_off_at_every_step_and_continued(stores, tmp_path, written):
    """Each pass does one step more than it found done, dies, and the next goes on from there."""
    local, there = stores
    path, deaths = tmp_path / "sent.jsonl", 0
    for _ in range(60):
        try:
            Mirror(local, there, NAME, Fragile(path, 0 if written else 1, written)).send()
            break
        except Killed:
            deaths += 1
    assert deaths >= 10
    assert Mirror(local, there, NAME, Ledger(path)).waiting() == []
    check(there)


def test_line_cut_in_half_is_sent_again(stores, tmp_path):
    local, there = stores
    path = tmp_path / "sent.jsonl"
    mirror = Mirror(local, there, NAME, Ledger(path))
    mirror.remote_id(mirror.waiting()[-1])  # the parent
    path.write_text(path.read_text("utf-8").rstrip()[:-20], "utf-8")
    assert Ledger(path).sent == {}
    assert Mirror(local, there, NAME, Ledger(path)).send() == 3
    assert len(Ledger(path).sent) > 10
    check(there)


def test_running_run_is_there_with_its_metrics_and_ends_later(project, tmp_path):
    shutil.copytree(project, tmp_path / "there")
    there = f"sqlite:///{tmp_path}/there/mlflow.db"
    local = tracking.connect(project, NAME)
    mirror = Mirror(local, there, NAME, Ledger(tmp_path / "sent.jsonl"))
    client = MlflowClient(there)
    with tracking.run("r") as run:
        mlflow.log_metric("f1", 0.5, step=1)
        assert mirror.send() == 0
        there_id = mirror.remote_id(run.info.run_id)
        seen = client.get_run(there_id)
        assert seen.info.status == "RUNNING" and seen.data.metrics == {"f1": 0.5}
        assert seen.data.tags[SPOOL] == run.info.run_id
        # Another command took the process for dead while the server was away.
        client.set_tag(there_id, "error", "the process ended without closing the run")
        client.set_terminated(there_id, "KILLED")
        mlflow.log_metric("f1", 0.6, step=2)
    assert mirror.send() == 1
    seen = client.get_run(there_id)
    assert seen.info.status == "FINISHED" and "error" not in seen.data.tags
    assert [m.value for m in client.get_metric_history(there_id, "f1")] == [0.5, 0.6]


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_status_of_a_run_that_ended_badly(project, tmp_path, status):
    shutil.copytree(project, tmp_path / "there")
    there = f"sqlite:///{tmp_path}/there/mlflow.db"
    local = tracking.connect(project, NAME)
    error = ZeroDivisionError if status == "FAILED" else KeyboardInterrupt
    with pytest.raises(error), tracking.run("r"):
        raise error
    mirror = Mirror(local, there, NAME, Ledger(tmp_path / "sent.jsonl"))
    assert mirror.send() == 1
    [run] = MlflowClient(there).search_runs(
        [MlflowClient(there).get_experiment_by_name(NAME).experiment_id]
    )
    assert run.info.status == status


def test_first_version_alone_becomes_champion(stores, tmp_path):
    local, there = stores
    client = MlflowClient(there, registry_uri=there)
    client.create_registered_model("net")
    old = client.create_model_version("net", "/older", await_creation_for=0)
    client.set_registered_model_alias("net", "champion", old.version)
    Mirror(local, there, NAME, Ledger(tmp_path / "sent.jsonl")).send()
    assert client.get_model_version_by_alias("net", "champion").version == old.version
    assert len(client.search_model_versions("name = 'net'")) == 2
