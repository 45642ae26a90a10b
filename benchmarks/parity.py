"""One model through every channel: python benchmarks/parity.py [--bundle dist/camembert].

Classifies the bundle's golden texts through each way to serve it and compares labels and
probabilities with the logits of golden.jsonl, at the channel's own precision. Writes
benchmarks/parity.json and the table in docs/serving.md. tests/test_parity.py runs the same.
Needs node and npm, Java 17 and presseco[train,serve,spark].
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from presseco.files import write_block

ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    "onnx fp32": "Python, fp32",
    "onnx int8": "Python, int8",
    "torch": "transformers, `hf/`",
    "pyfunc": "mlflow.pyfunc",
    "mlflow serve": "`mlflow models serve`",
    "presseco serve": "`presseco serve`",
    "node": "Node, int8",
    "spark": "Spark",
}

#: By text: {task: (label, probability)}.
Given = list[dict[str, tuple[str, float]]]


@dataclass(frozen=True)
class Parity:
    """One channel against the golden logits. `near` counts other labels where two are as good."""

    channel: str
    precision: str
    texts: int
    answers: int
    equal: int
    near: int
    difference: float


class Golden:
    """The golden texts of a bundle, and what its logits make of them."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
        lines = (bundle / "golden.jsonl").read_text("utf-8").splitlines()
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.texts = [r["text"] for r in self.rows]

    def want(self, precision: str) -> list[dict[str, dict[str, float]]]:
        """Return the calibrated probabilities of every label, by text and task."""
        return [self.answers(r["logits"][precision]) for r in self.rows]

    def answers(self, logits: Any) -> dict[str, dict[str, float]]:
        """Return one text's calibrated probabilities from its flat logits."""
        out, start = {}, 0
        for task in self.manifest["tasks"]:
            labels = [x["id"] for x in task["labels"]]
            z = np.array(logits[start : start + len(labels)], dtype=np.float64)
            p = np.exp((z - z.max()) / task["temperature"])
            out[task["name"]] = dict(zip(labels, (p / p.sum()).tolist(), strict=True))
            start += len(labels)
        return out

    def best(self, logits: Any) -> dict[str, tuple[str, float]]:
        """Return one text's answers from its flat logits."""
        p = self.answers(logits)
        return {t: max(by.items(), key=lambda x: x[1]) for t, by in p.items()}

    def compare(self, channel: str, precision: str, given: Given, near: float) -> Parity:
        """Compare a channel's answers; another label counts as near within `near` of the best."""
        if len(given) != len(self.texts):
            raise RuntimeError(f"{channel}: {len(given)} answers to {len(self.texts)} texts")
        equal = close = answers = 0
        worst = 0.0
        for mine, want in zip(given, self.want(precision), strict=True):
            for task, (label, probability) in mine.items():
                best = max(want[task], key=lambda x: want[task][x])
                answers += 1
                equal += label == best
                close += label != best and want[task][best] - want[task][label] <= near
                worst = max(worst, abs(probability - want[task][label]))
        return Parity(channel, precision, len(given), answers, equal, close, worst)


def from_python(golden: Golden, precision: str) -> Given:
    """Ask `Classifier`."""
    from presseco.classifier import Classifier

    given = Classifier.load(golden.bundle, precision=precision, threads=1).predict(golden.texts)
    return [{t: (a.label, a.probability) for t, a in p.answers.items()} for p in given]


def from_torch(golden: Golden) -> Given:
    """Ask the checkpoint in hf/ as transformers loads it, calibrated as bundle.json says."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from presseco.text import prepare

    tokenizer = AutoTokenizer.from_pretrained(golden.bundle / "hf")
    model = AutoModelForSequenceClassification.from_pretrained(golden.bundle / "hf").eval()
    longest, out = golden.manifest["text"]["max_tokens"], []
    for text in golden.texts:
        batch = tokenizer(prepare(text), truncation=True, max_length=longest, return_tensors="pt")
        with torch.no_grad():
            out.append(golden.best(model(**batch).logits[0].numpy()))
    return out


@contextmanager
def registered(golden: Golden, folder: Path) -> Iterator[str]:
    """Register the bundle as champion in a store of its own; give the store's address."""
    import mlflow

    from presseco.registry import log_and_register

    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("parity", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("parity")
    with mlflow.start_run():
        tasks = [t["name"] for t in golden.manifest["tasks"]]
        log_and_register("camembert", "presseco", golden.bundle, tasks, "parity")
    yield uri


def from_pyfunc(golden: Golden) -> Given:
    """Ask `mlflow.pyfunc`, in this process."""
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model("models:/presseco@champion")
    table = model.predict(pd.DataFrame({"text": golden.texts}))
    return [_columns(golden, row) for row in table.to_dict("records")]


def _columns(golden: Golden, row: Any) -> dict[str, tuple[str, float]]:
    names = [t["name"] for t in golden.manifest["tasks"]]
    return {t: (row[t], float(row[f"{t}_probability"])) for t in names}


def from_mlflow_serve(golden: Golden, uri: str) -> Given:
    """Ask `mlflow models serve` over HTTP."""
    command = ["-m", "mlflow", "models", "serve", "-m", "models:/presseco@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port"]
    with served(command, "ping", {"MLFLOW_TRACKING_URI": uri}) as address:
        body = {"dataframe_records": [{"text": t} for t in golden.texts]}
        rows = post(f"{address}/invocations", body)["predictions"]
    return [_columns(golden, r) for r in rows]


def from_presseco_serve(golden: Golden) -> Given:
    """Ask `presseco serve` over HTTP."""
    command = ["-m", "presseco", "serve", "--model", str(golden.bundle), "--threads", "1", "--port"]
    with served(command, "ready", {}) as address:
        body = {"articles": [{"text": t} for t in golden.texts]}
        rows = post(f"{address}/predict/batch", body)["predictions"]
    return [{t: (a["label"], a["probability"]) for t, a in r["answers"].items()} for r in rows]


@contextmanager
def served(command: list[str], path: str, env: dict[str, str]) -> Iterator[str]:
    """Start a server on a free port of this machine; give its address once `path` answers 200."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, **env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [sys.executable, *command, str(port)],
            env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            wait(f"http://127.0.0.1:{port}/{path}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def wait(url: str, server: subprocess.Popen[bytes], log: Any) -> None:
    """Wait until a server answers, two minutes at most."""
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    log.seek(0)
    raise RuntimeError(f"{url} does not answer: {log.read()[-2000:]}")


def post(url: str, body: Any) -> Any:
    """Post JSON and return the JSON answered."""
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as r:
        return json.load(r)


def from_node(golden: Golden, folder: Path) -> Given:
    """Ask examples/node, its packages installed in a copy."""
    copy = folder / "node"
    shutil.copytree(ROOT / "examples/node", copy, ignore=shutil.ignore_patterns("node_modules"))
    env = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    install = ["npm", "install", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=copy, env=env, capture_output=True, check=True)
    lines = "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(golden.texts))
    done = subprocess.run(
        ["node", "main.mjs", str(golden.bundle.resolve()), "int8"],
        cwd=copy, input=lines, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    names = [t["name"] for t in golden.manifest["tasks"]]
    return [{t: (r[t]["label"], r[t]["probability"]) for t in names} for r in rows]


def from_spark(golden: Golden, folder: Path) -> Given:
    """Ask the registered model as a Spark function on one local core."""
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    import mlflow
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import struct

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.local.dir", str(folder)).getOrCreate()
    try:
        classify = mlflow.pyfunc.spark_udf(spark, "models:/presseco@champion", env_manager="local")
        rows = spark.createDataFrame(list(enumerate(golden.texts)), ["id", "text"])
        answered = rows.withColumn("answer", classify(struct("text"))).orderBy("id").collect()
    finally:
        spark.stop()
    return [_columns(golden, r["answer"]) for r in answered]


def parity(bundle: Path, folder: Path, near: float = 0.02) -> list[Parity]:
    """Ask every channel in turn; `folder` holds the store and the packages of this run."""
    from presseco.classifier import Classifier

    golden = Golden(bundle)
    auto = Classifier.load(bundle, threads=1).precision
    with registered(golden, folder) as uri:
        channels: dict[str, tuple[str, Callable[[], Given]]] = {
            "onnx fp32": ("fp32", lambda: from_python(golden, "fp32")),
            "onnx int8": ("int8", lambda: from_python(golden, "int8")),
            "torch": ("fp32", lambda: from_torch(golden)),
            "pyfunc": (auto, lambda: from_pyfunc(golden)),
            "mlflow serve": (auto, lambda: from_mlflow_serve(golden, uri)),
            "presseco serve": (auto, lambda: from_presseco_serve(golden)),
            "node": ("int8", lambda: from_node(golden, folder)),
            "spark": (auto, lambda: from_spark(golden, folder)),
        }
        found = []
        for name, (precision, ask) in channels.items():
            found.append(golden.compare(name, precision, ask(), near))
            print(found[-1], flush=True)
    return found


def table(found: list[Parity]) -> str:
    """Return the comparison as the Markdown table of docs/serving.md."""
    out = [
        "| channel | precision | texts | same label | near | largest difference |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for p in found:
        out.append(
            f"| {NAMES[p.channel]} | {p.precision} | {p.texts} | {p.equal} of {p.answers} | {p.near} | "
            f"{p.difference:.1e} |"
        )
    return "\n".join(out)


def main() -> None:
    """Compare, write the JSON and put the table between the marks in docs/serving.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "dist/camembert")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = parity(args.bundle, Path(folder))
    text = json.dumps([asdict(p) for p in found], indent=1)
    (ROOT / "benchmarks/parity.json").write_text(text + "\n", "utf-8")
    write_block(ROOT / "docs/serving.md", "parity", table(found))
    print(table(found))


if __name__ == "__main__":
    main()
