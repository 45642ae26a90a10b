"""A tiny project of real parts: the real settings, seeds and articles, and a small CamemBERT."""

from __future__ import annotations

import os

# Before numpy and torch: one thread a process, no network, no telemetry, no store of the user's.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
WRITERS = ("A", "B", "C", "D", "E", "F")
PER_WRITER = 20

#: Overrides that make the real experiments small; four writers train, E validates, F tests.
SHRINK = [
    "corpus.validation_writers=[E]",
    "corpus.test_writers=[F]",
    "baseline.max_features=2000",
    "baseline.c_grid=[4.0]",
    "frozen.c_grid=[0.1]",
    "camembert.max_tokens=64",
    "camembert.frozen_layers=1",
    "camembert.epochs=2",
    "camembert.batch_size=16",
    "camembert.precision=fp32",
]


def experiment(project: Path, name: str) -> str:
    """Return the path of an experiment file of a project folder."""
    return str(project / "configs" / "experiment" / f"{name}.yaml")


def sets(overrides: Iterable[str]) -> list[str]:
    """Return overrides as command-line arguments."""
    return [word for item in overrides for word in ("--set", item)]


def write_lines(path: Path, rows: Iterable[dict[str, Any] | str]) -> Path:
    """Write rows (or raw lines) as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """120 real articles, 20 of each of six writers; without companies, so that all stay in."""
    source = ROOT / "data" / "articles" / "first-600.jsonl"
    every = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    every = [{k: v for k, v in r.items() if k not in ("company", "annotations")} for r in every]
    return [r for w in WRITERS for r in [a for a in every if a["writer"] == w][:PER_WRITER]]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CamemBERT checkpoint, two layers of 32, with the real tokenizer."""
    import torch
    from transformers import CamembertConfig, CamembertModel

    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    torch.manual_seed(0)
    config = CamembertConfig(
        vocab_size=24000,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.3,  # with the usual 0.02 so small a model gives every text one vector
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    CamembertModel(config, add_pooling_layer=False).save_pretrained(folder)
    for name in ("tokenizer.json", "NOTICE"):
        shutil.copy(ROOT / "models" / "encoder" / name, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_encoder: Path) -> Any:
    """The tiny encoder with a head whose random logits spread, so that answers differ."""
    import torch

    from presseco.encoder import load_model
    from presseco.taxonomy import read_taxonomy

    torch.manual_seed(1)
    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
    model = load_model(tiny_encoder, taxonomy.task_map, dropout=0.0).eval()
    with torch.no_grad():
        model.classifier.dense.weight.normal_(0, 0.3)
        model.classifier.out_proj.weight.normal_(0, 1)
    return model


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_encoder: Path,
    tiny_model: Any,
    rows: list[dict[str, Any]],
) -> Path:
    """A bundle as the main job exports it, of the tiny model. Do not change it: copy it."""
    import torch

    from presseco.encoder import load_tokenizer, token_ids
    from presseco.evaluate import split_logits
    from presseco.export import export_bundle
    from presseco.reference import make_reference
    from presseco.taxonomy import read_taxonomy

    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
    names = [task.name for task in taxonomy.tasks]
    held_out, train = ([r["text"] for r in some] for some in (rows[:40], rows[40:]))
    with torch.no_grad():
        ids = token_ids(load_tokenizer(tiny_encoder), held_out, 96)
        logits = torch.cat([tiny_model(input_ids=torch.tensor([i])).logits for i in ids]).numpy()
    p = split_logits(logits, taxonomy.task_map, dict.fromkeys(names, 1.5))
    return export_bundle(
        tiny_model,
        load_tokenizer(tiny_encoder),
        tmp_path_factory.mktemp("bundle") / "tiny",
        name="presseco-tiny",
        taxonomy=taxonomy,
        temperatures=dict.fromkeys(names, 1.5),
        thresholds=dict.fromkeys(names, 0.4),
        max_tokens=96,
        golden=[r["text"] for r in rows[:20]] + ["Brève.", "LE CAC 40 CHUTE DE 3 %"],
        lineage={"experiment": "tiny", "run_id": "none", "seed": 1},
        card="# presseco-tiny\n",
        notices=[ROOT / "LICENSE", tiny_encoder / "NOTICE"],
        reference=make_reference(p, dict.fromkeys(names, 0.4), held_out, train),
    )


@pytest.fixture(scope="session")
def template(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], tiny_encoder: Path
) -> Path:
    """The tiny project that every test copies; its MLflow tables are made once (seconds)."""
    import logging

    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(ROOT / "seeds", folder / "seeds")
    shutil.copytree(tiny_encoder, folder / "models" / "encoder")
    shutil.copy(ROOT / "LICENSE", folder)
    for writer in WRITERS:
        mine = [r for r in rows if r["writer"] == writer]
        write_lines(folder / "data" / "articles" / f"{writer}.jsonl", mine)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A copy of the tiny project, the test's own."""
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture(autouse=True)
def _mlflow_as_before() -> Iterator[None]:
    """Point mlflow away from the last test's store, whose folder may be gone."""
    yield
    import sys

    if "mlflow" in sys.modules:
        import mlflow

        while mlflow.active_run():
            mlflow.end_run("KILLED")
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def small_files() -> Iterator[Any]:
    """A context in which no file may grow over some bytes: what a full disk looks like."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
