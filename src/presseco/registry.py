"""Models in MLflow's registry: log with a text-in signature, register, name a champion, fetch."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from presseco.bundle import MANIFEST
from presseco.errors import StoreError
from presseco.pyfunc_table import signature
from presseco.views import ROLE

CHAMPION = "champion"
_EXAMPLE = {
    "text": ["Le groupe a relevé mardi ses prévisions de marge pour l'ensemble de l'année."],
    "title": ["L'équipementier vise plus haut"],
}
_PACKAGE = Path(__file__).parent

#: What a service needs beside mlflow to load the logged model: no torch, no transformers.
REQUIREMENTS = {
    "camembert": ["mlflow", "numpy", "pandas", "onnxruntime", "tokenizers"],
    "baseline": ["mlflow", "numpy", "pandas", "scipy", "scikit-learn", "skops"],
}


def log_and_register(kind: str, name: str, folder: Path, tasks: list[str], version_of: str) -> Any:
    """Log `folder` as a pyfunc model of the active run and register it as `name`.

    `kind` is `camembert` or `baseline`; `version_of` is written as the version's description. The
    first version ever becomes `champion`; later ones wait for a decision.
    """
    logging.getLogger("mlflow.models.model").setLevel(logging.ERROR)
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    # mlflow prints the version's number, which for a server is given when the model arrives there.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        # "Add type hints": with them, mlflow would overrule the signature (a text, maybe a title).
        warnings.simplefilter("ignore", UserWarning)
        info = _log(kind, name, folder, tasks)
    client = MlflowClient()
    version = str(info.registered_model_version)
    client.update_model_version(name, version, description=version_of)
    first_is_champion(client, name, version)
    return info


def first_is_champion(client: MlflowClient, name: str, version: str) -> None:
    """Give `version` the alias `champion` if it is the first; later ones need a decision.

    The first is the lowest number whose run did not fail: two trainings that register at the same
    moment agree on it. The version's run is tagged `role`: champion or challenger.
    """
    holder = client.get_registered_model(name).aliases.get(CHAMPION)
    if holder is None and version == _first(client, name):
        client.set_registered_model_alias(name, CHAMPION, version)
        holder = version
    role = CHAMPION if str(holder) == version else "challenger"
    client.set_tag(client.get_model_version(name, version).run_id, ROLE, role)


def _first(client: MlflowClient, name: str) -> str | None:
    found = client.search_model_versions(f"name = '{name}'")
    for made in sorted(found, key=lambda v: int(v.version)):
        run = client.get_run(made.run_id) if made.run_id else None
        if run is None or run.info.status not in ("FAILED", "KILLED"):
            return str(made.version)
    return None


def _log(kind: str, name: str, folder: Path, tasks: list[str]) -> Any:
    return mlflow.pyfunc.log_model(
        name=kind,
        python_model=str(_PACKAGE / f"pyfunc_{kind}.py"),
        artifacts={"model": str(folder)},
        signature=signature(tasks),
        input_example=pd.DataFrame(_EXAMPLE),
        pip_requirements=[f"{p}=={installed(p)}" for p in REQUIREMENTS[kind]],
        code_paths=[str(_PACKAGE)],
        registered_model_name=name,
    )


def fetch_bundle(uri: str) -> Path:
    """Return the local folder of the bundle inside a logged or registered model.

    `uri` is `models:/name@alias`, `models:/name/version`, `runs:/id/name`, or `runs:/id`.
    """
    try:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or _local_store(uri))
        if uri.startswith("runs:/") and "/" not in uri.removeprefix("runs:/").strip("/"):
            uri = _only_model(uri.removeprefix("runs:/").strip("/"))
        with contextlib.redirect_stderr(None):
            folder = Path(mlflow.artifacts.download_artifacts(uri))
    except (MlflowException, OSError) as e:
        reason = (str(e).splitlines() or ["unknown error"])[0]
        raise StoreError(f"{uri}: cannot be fetched: {reason}") from e
    for manifest in sorted(folder.rglob(MANIFEST)):
        return manifest.parent
    raise StoreError(
        f"{uri}: no {MANIFEST} in this model. Expected a CamemBERT model that presseco logged; the "
        "baseline is loaded with mlflow.pyfunc.load_model."
    )


def _local_store(uri: str) -> str:
    store = Path("mlflow.db").resolve()
    if not store.is_file():
        raise StoreError(
            f"{uri}: {store} is missing. Call this from the project folder, or set "
            "MLFLOW_TRACKING_URI to the store that holds the model."
        )
    return f"sqlite:///{store}"


def _only_model(run_id: str) -> str:
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    if not found:
        raise StoreError(f"runs:/{run_id}: this run logged no model")
    return str(found[0].model_uri)
