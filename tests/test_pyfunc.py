"""The registered models: signature, parameters, REST forms, and answers equal to the bundle's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from conftest import ROOT
from presseco.baseline import fit_baseline
from presseco.classifier import Classifier
from presseco.config import read_config
from presseco.errors import StoreError
from presseco.registry import fetch_bundle, log_and_register
from presseco.taxonomy import read_taxonomy

TASKS = ["sector", "event_type", "sentiment"]
NAMES = {"camembert": "presseco", "baseline": "presseco-baseline"}
TEXT = "Renault relève ses prévisions de marge après un bon trimestre."


@pytest.fixture(scope="module")
def tiny_baseline(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
    labels = pd.DataFrame(
        [[taxonomy.index(t, r[t]) for t in taxonomy.names] for r in rows]
    ).to_numpy()
    config = read_config(
        ROOT / "configs" / "experiment" / "baseline.yaml",
        ["baseline.max_features=500", "baseline.c_grid=[4.0]"],
    )
    texts = [r["text"] for r in rows]
    model = fit_baseline(
        texts, labels, texts, labels, task_map=taxonomy.task_map, config=config.baseline
    )
    folder = tmp_path_factory.mktemp("baseline") / "tiny"
    same = {"temperatures": dict.fromkeys(TASKS, 1.0), "thresholds": dict.fromkeys(TASKS, 0.5)}
    model.save(folder, **same)
    return folder


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, tiny_baseline: Path
) -> Iterator[str]:
    """A registry with both models, champions as the first of their names."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("t", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("t")
    for kind, path in (("camembert", tiny_bundle), ("baseline", tiny_baseline)):
        with mlflow.start_run():
            log_and_register(kind, NAMES[kind], path, TASKS, "a test")
    yield uri


@pytest.fixture(autouse=True)
def _uri(store: str) -> None:
    mlflow.set_tracking_uri(store)


@pytest.fixture(scope="module", params=["camembert", "baseline"])
def model(request: pytest.FixtureRequest, store: str) -> Any:
    mlflow.set_tracking_uri(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.load_model(f"models:/{NAMES[request.param]}@champion")


@pytest.fixture
def post(model: Any) -> Any:
    """The scoring server that `mlflow models serve` runs, asked in this process."""
    from mlflow.pyfunc.scoring_server import init
    from starlette.testclient import TestClient

    client = TestClient(init(model), raise_server_exceptions=False)
    return lambda body: client.post(
        "/invocations",
        content=body if isinstance(body, str) else json.dumps(body),
        headers={"content-type": "application/json"},
    )


def test_signature_is_text_in_columns_out(model: Any) -> None:
    signature = model.metadata.signature
    assert [(c.name, c.required) for c in signature.inputs] == [("text", True), ("title", False)]
    names = [f"{t}{suffix}" for t in TASKS for suffix in ("", "_probability", "_abstained")]
    assert signature.outputs.input_names() == names
    assert [p.name for p in signature.params] == ["top_k", "abstain"]


def test_requirements_are_pinned_and_without_torch(model: Any) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model.metadata.model_id}"))
    lines = (folder / "requirements.txt").read_text("utf-8").split()
    assert all("==" in line for line in lines)
    assert not [line for line in lines if line.startswith(("torch", "transformers"))]
    assert not list(folder.rglob("*.pkl"))


def test_answers_are_the_bundles(store: str, tiny_bundle: Path, rows: list[dict[str, Any]]) -> None:
    model = mlflow.pyfunc.load_model("models:/presseco@champion")
    texts = [r["text"] for r in rows[:12]]
    table = model.predict(pd.DataFrame({"text": texts}))
    for (_, row), p in zip(
        table.iterrows(), Classifier.load(tiny_bundle).predict(texts), strict=True
    ):
        for task in TASKS:
            assert row[task] == p[task].label
            assert row[f"{task}_probability"] == pytest.approx(p[task].probability, abs=1e-6)
            assert row[f"{task}_abstained"] == p[task].abstained


def test_title_counts(model: Any) -> None:
    apart = model.predict(
        pd.DataFrame({"text": ["Le titre a perdu 8 %."], "title": ["Rexel chute"]})
    )
    joined = model.predict(pd.DataFrame({"text": ["Rexel chute\nLe titre a perdu 8 %."]}))
    pd.testing.assert_frame_equal(apart, joined)


def test_top_k_and_abstain(model: Any) -> None:
    frame = pd.DataFrame({"text": [TEXT, "…"]})
    row, blank = model.predict(frame, params={"top_k": 3, "abstain": True}).to_dict("records")
    for task in TASKS:
        top = row[f"{task}_top"]
        assert len(top) == 3
        assert top[0]["probability"] == row[f"{task}_probability"]
        assert [t["probability"] for t in top] == sorted(
            (t["probability"] for t in top), reverse=True
        )
        assert row[task] == (None if row[f"{task}_abstained"] else top[0]["label"])
        assert blank[task] is None


@pytest.mark.parametrize("k", [0, -1])
def test_impossible_top_k(model: Any, k: int) -> None:
    with pytest.raises(MlflowException, match=f"top_k is {k}; expected a whole number from 1"):
        model.predict(pd.DataFrame({"text": [TEXT]}), params={"top_k": k})


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"text": TEXT}, {"text": "Autre."}]},
        {"dataframe_split": {"columns": ["text"], "data": [[TEXT], ["Autre."]]}},
        {"instances": [{"text": TEXT}, {"text": "Autre."}]},
        {"inputs": {"text": [TEXT, "Autre."]}},
        {"inputs": [{"text": TEXT}, {"text": "Autre."}]},
    ],
)
def test_all_rest_forms_give_one_answer(model: Any, post: Any, body: dict[str, Any]) -> None:
    response = post(body)
    assert response.status_code == 200, response.text
    want = model.predict(pd.DataFrame({"text": [TEXT, "Autre."]})).to_dict("records")
    for got, expected in zip(response.json()["predictions"], want, strict=True):
        for task in TASKS:
            assert got[task] == expected[task]
            assert got[f"{task}_abstained"] == expected[f"{task}_abstained"]
            assert got[f"{task}_probability"] == pytest.approx(expected[f"{task}_probability"])


@pytest.mark.parametrize(
    "body",
    [{"dataframe_split": {"columns": ["text"], "data": []}}, {"inputs": {"text": []}}],
)
def test_no_rows_no_answers(post: Any, body: dict[str, Any]) -> None:
    response = post(body)
    assert (response.status_code, response.json()) == (200, {"predictions": []})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"dataframe_records": []}, "text"),
        ({"instances": []}, "text"),
        ({"dataframe_records": [{"text": 3}]}, "'text' holds int; expected strings"),
        ({"dataframe_records": [{"text": TEXT}, {"text": None}]}, "expected strings"),
        ({"dataframe_records": [{"texte": TEXT}]}, "missing inputs"),
        ({"dataframe_records": [{"text": TEXT, "title": 4}]}, "'title' holds int"),
        ({"inputs": {"text": [TEXT, "b"], "title": ["c"]}}, "same length"),
        ({"inputs": [TEXT]}, "schema"),
        ({"instances": 3}, "schema"),
        ({"dataframe_records": [{"text": TEXT}], "params": {"top_k": "x"}}, "top_k"),
        ({"dataframe_records": [{"text": TEXT}], "params": {"top_k": 0}}, "top_k is 0"),
        ({}, "JSON dictionary"),
        ([], "JSON dictionary"),
        ("{", "valid JSON"),
    ],
)
def test_wrong_requests_are_400_with_a_reason(post: Any, body: Any, message: str) -> None:
    response = post(body)
    assert response.status_code == 400, response.text
    assert message in response.json()["message"]
    assert "Traceback" not in response.text
    assert not response.json().get("stack_trace")


def test_bundle_is_fetched_by_alias(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert Classifier.load("models:/presseco@champion").bundle.name == "presseco-tiny"
    with pytest.raises(StoreError, match=r"the baseline is loaded with mlflow.pyfunc"):
        fetch_bundle("models:/presseco-baseline@champion")
    with pytest.raises(StoreError, match="models:/presseco@nobody: cannot be fetched"):
        fetch_bundle("models:/presseco@nobody")


@pytest.mark.services
@pytest.mark.parametrize("name", list(NAMES.values()))
def test_mlflow_models_serve(store: str, name: str, tmp_path: Path) -> None:
    """The command of the documentation, in a process and a folder of its own."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{name}@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": path}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
        url = f"http://127.0.0.1:{port}/invocations"
        status, body = _post(url, {"dataframe_records": [{"text": TEXT}]})
        assert status == 200
        assert set(body["predictions"][0]) >= set(TASKS)
        status, body = _post(url, {"dataframe_records": [{"text": 3}]})
        assert status == 400
        assert "expected strings" in body["message"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def _post(url: str, body: Any) -> tuple[int, Any]:
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)
