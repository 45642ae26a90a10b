"""A team's server as docs/experiments.md sets it up: PostgreSQL, artifacts through the server."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest

import needs
from conftest import SHRINK, experiment, sets
from presseco.errors import NO
from presseco.spool import spools
from servers import Server, finish, presseco

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
_BIN = "usr/lib/postgresql/*/bin"


def _programs() -> Path:
    """Return the folder of Debian's PostgreSQL programs, which are not on the PATH."""
    if not any(Path("/").glob(f"{_BIN}/initdb")):
        needs.program("psql", "postgresql")
    return max(Path("/").glob(f"{_BIN}/initdb")).parent


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URI of an empty PostgreSQL database, reached through a socket; not run as root."""
    needs.package("psycopg[binary]", "psycopg")
    programs, folder = _programs(), Path(tempfile.mkdtemp(prefix="presseco-pg-", dir="/tmp"))
    owner = pwd.getpwnam("postgres") if os.getuid() == 0 else None
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)

    def run(name: str, *args: str) -> None:
        command = [str(programs / name), *args]
        user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, **user
        )
        assert done.returncode == 0, f"{command}: {done.stderr[-1000:]}"

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "mlflow", "--auth=trust", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        run("createdb", "-h", str(folder), "-U", "mlflow", "mlflow")
        yield f"postgresql+psycopg://mlflow@/mlflow?host={folder}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("server"), database)
    found.start()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def projects(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two people's checkouts."""
    place = tmp_path_factory.mktemp("team")
    one, two = (Path(shutil.copytree(template, place / name)) for name in ("one", "two"))
    for project in (one, two):
        (project / "mlflow.db").unlink()
    return one, two


@pytest.fixture(scope="module")
def trained(server: Server, projects: tuple[Path, Path]) -> str:
    """What two trainings printed that ran at once, each in its own project, on one server."""
    sizes = ("baseline.max_features=2000", "baseline.max_features=300")
    running = [
        presseco(
            project, server.uri, "train", experiment(project, "baseline"), *sets([*SHRINK, size])
        )
        for project, size in zip(projects, sizes, strict=True)
    ]
    return "".join(finish(process) for process in running)


def test_two_trainings_at_once_arrive_whole(trained, server, projects):
    assert trained.count(f"all runs sent to {server.uri}/#/experiments/") == 2
    client = server.client
    place = client.get_experiment_by_name("presseco")
    runs = client.search_runs([place.experiment_id])
    assert len(runs) == 4 and {r.info.status for r in runs} == {"FINISHED"}
    models = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert [r.data.params["kind"] for r in models] == ["baseline", "baseline"]
    assert place.artifact_location.startswith("mlflow-artifacts:"), "files go through the server"
    for run in models:
        assert "test.sector.macro_f1" in run.data.metrics
        assert {"config.yaml", "calibration.json"} <= server.files(run)
        assert len(run.outputs.model_outputs) == 1
    for project in projects:
        assert spools(project) == [] and not (project / "mlflow.db").exists()
        assert not (project / "mlartifacts").exists()


def test_registered_models_answer_from_the_server(trained, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    versions = server.client.search_model_versions("name = 'presseco-baseline'")
    assert sorted(int(v.version) for v in versions) == [1, 2]
    model = server.client.get_registered_model("presseco-baseline")
    assert str(model.aliases["champion"]) == "1", "though both look at the same moment"
    mlflow.set_tracking_uri(server.uri)
    loaded = mlflow.pyfunc.load_model("models:/presseco-baseline@champion")
    answer = loaded.predict(pd.DataFrame({"text": ["Le groupe embauche 300 personnes à Lyon."]}))
    assert set(answer.columns) >= {"sector", "event_type", "sentiment"}
    champion = server.client.get_model_version_by_alias("presseco-baseline", "champion")
    assert loaded.metadata.run_id == champion.run_id, "the model names its run on the server"


def test_compare_reads_the_server(trained, server, projects):
    a, b = (
        server.client.get_model_version("presseco-baseline", version).run_id for version in "12"
    )
    process = presseco(projects[0], server.uri, "compare", "--a", a, "--b", b)
    out, errors = process.communicate(timeout=800)
    assert process.returncode in (0, NO), errors
    assert "sector" in out and "report: " in out and "Downloading" not in errors
    attached = {f.path for f in server.client.list_artifacts(b)}
    assert any(path.startswith("compare") for path in attached)
    assert not (projects[0] / "mlflow.db").exists()
