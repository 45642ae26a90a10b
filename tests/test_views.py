"""The saved views and the description that make MLflow's pages useful without set-up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from presseco import tracking
from presseco.views import _DESCRIPTION, START, address, prepare_pages, views


@pytest.fixture
def client(project: Path) -> MlflowClient:
    tracking.connect(project, "essai")
    return MlflowClient()


def tags(client: MlflowClient) -> dict[str, str]:
    return dict(client.get_experiment_by_name("essai").tags)


def test_connecting_prepares_the_pages(client):
    found = tags(client)
    assert found["mlflow.experimentKind"] == "custom_model_development"
    names = {json.loads(v)["name"] for k, v in found.items() if k.startswith("mlflow.sharedView")}
    assert names == {"Models, best first", "Trainings", "Searches and curves"}
    for name in names:
        assert name in _DESCRIPTION


def test_a_description_of_the_team_stays_and_a_changed_view_is_mended(client):
    experiment = client.get_experiment_by_name("essai").experiment_id
    client.set_experiment_tag(experiment, "mlflow.note.content", "ours")
    client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{START}", "{}")
    client.set_experiment_tag(experiment, "mlflow.sharedViewState.mine", "kept")
    prepare_pages(client, "essai")
    found = tags(client)
    assert found["mlflow.note.content"] == "ours"
    assert json.loads(found[f"mlflow.sharedViewState.{START}"]) == views()[START]
    assert found["mlflow.sharedViewState.mine"] == "kept"


def test_views_ask_what_the_store_understands(client):
    experiment = client.get_experiment_by_name("essai").experiment_id
    with (
        tracking.run("parent", tags={"purpose": "train"}),
        tracking.run("model", nested=True, tags={"purpose": "train"}),
    ):
        import mlflow

        mlflow.log_param("kind", "baseline")
        mlflow.log_metric("test.macro_f1", 0.5)
    found = {}
    for key, view in views().items():
        state = json.loads(view["state"])
        order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
        runs = client.search_runs([experiment], state["searchFilter"], order_by=[order])
        found[key] = {r.info.run_name for r in runs}
        assert set(state["selectedColumns"]) <= set(state["columnOrder"])
    assert found == {"models": {"model"}, "trainings": {"model", "parent"}, "searches": set()}


def test_address_names_the_view():
    link = address("http://127.0.0.1:5000", "3")
    assert link.startswith("http://127.0.0.1:5000/#/experiments/3/runs?")
    assert link.endswith(f"viewStateShareKey={START}")
