"""Which version of a registered model is champion before anybody has decided."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from presseco.registry import first_is_champion


@pytest.fixture
def client(template: Path, tmp_path: Path) -> MlflowClient:
    store = tmp_path / "mlflow.db"
    store.write_bytes((template / "mlflow.db").read_bytes())
    client = MlflowClient(f"sqlite:///{store}", registry_uri=f"sqlite:///{store}")
    client.create_registered_model("net")
    return client


def version(client: MlflowClient, status: str = "RUNNING") -> str:
    run = client.create_run("0")
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    made = client.create_model_version(
        "net", f"/model/{run.info.run_id}", run.info.run_id, await_creation_for=0
    )
    return str(made.version)


def roles(client: MlflowClient) -> dict[str, str | None]:
    found = client.search_model_versions("name = 'net'")
    return {str(v.version): client.get_run(v.run_id).data.tags.get("role") for v in found}


def champion(client: MlflowClient) -> str:
    return str(client.get_registered_model("net").aliases.get("champion"))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_that_register_at_the_same_moment_agree(client, order):
    made = [version(client), version(client)]
    for i in order:
        first_is_champion(client, "net", made[i])
    assert champion(client) == made[0]
    assert roles(client) == {made[0]: "champion", made[1]: "challenger"}


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_failed_does_not_keep_the_place(client, status):
    version(client, status)
    second = version(client)
    first_is_champion(client, "net", second)
    assert champion(client) == second


def test_later_versions_wait_for_a_decision(client):
    made = [version(client) for _ in range(3)]
    for each in made:
        first_is_champion(client, "net", each)
    client.delete_registered_model_alias("net", "champion")  # somebody wants none
    fourth = version(client)
    first_is_champion(client, "net", fourth)
    assert champion(client) == "None" and roles(client)[fourth] == "challenger"
