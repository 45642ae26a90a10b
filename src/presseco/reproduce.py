"""Rebuild a run from what it logged, and say by how much its metrics differ."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.console import Console

from presseco import tracking
from presseco.config import Config
from presseco.corpus import build_corpus
from presseco.errors import ConfigError, StoreError
from presseco.fit import load_data
from presseco.train import train_one

#: Metrics that measure the machine, not the model.
_MACHINE = ("docs_per_second", "minutes", "megabytes", "train.seconds", "train.docs_per_second")


def reproduce(root: Path, run_id: str, experiment: str, console: Console) -> dict[str, float]:
    """Train run `run_id` again; return new minus old for every metric that differs.

    Refuses when the corpus built here is not the one of the run: the metrics could not be the same.
    Tells about other package versions and another commit, and goes on.
    """
    tracking.connect(root, experiment)
    client = MlflowClient()
    try:
        run = client.get_run(run_id)
        with tempfile.TemporaryDirectory() as place:
            text = Path(client.download_artifacts(run_id, "config.yaml", place)).read_text("utf-8")
            seen = client.download_artifacts(run_id, "environment.yaml", place)
            versions = yaml.safe_load(Path(seen).read_text(encoding="utf-8"))
    except (MlflowException, OSError) as e:
        raise StoreError(f"run {run_id}: cannot be read: {str(e).splitlines()[0]}") from e
    config = Config.model_validate({**yaml.safe_load(text), "root": root})
    corpus, _ = build_corpus(config)
    wanted = run.data.params["corpus_digest"]
    if corpus.digest != wanted:
        raise ConfigError(
            f"run {run_id} was trained on corpus {wanted}; the articles here build {corpus.digest}. "
            f"Check out commit {run.data.params['git_commit']} first."
        )
    for package, version in tracking.environment().items():
        if versions.get(package) != version:
            console.print(f"[yellow]{package} is {version}, the run had {versions.get(package)}[/]")
    tags = {"purpose": "reproduce", "reproduces": run_id}
    with tracking.run(f"reproduce · {run.info.run_name}", tags=tags):
        result = train_one(config, load_data(corpus), console, purpose="reproduce", register=False)
    new = client.get_run(result.run_id).data.metrics
    old = run.data.metrics
    keys = [k for k in old if k in new and k not in _MACHINE]
    return {k: new[k] - old[k] for k in keys if new[k] != old[k]}


def run_reproduce(root: Path, run_id: str, experiment: str) -> int:
    """Print the differences; return 0 when there is none, else 2."""
    console = Console()
    differences = reproduce(root, run_id, experiment, console)
    for key, value in sorted(differences.items()):
        console.print(f"{key}: {value:+.6f}")
    console.print(f"{len(differences)} metrics differ from run {run_id}")
    return 2 if differences else 0
