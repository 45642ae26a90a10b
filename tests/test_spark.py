"""Past one machine: the registered model as a Spark function."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import needs
from presseco.classifier import Classifier

TASKS = ["sector", "event_type", "sentiment"]


@pytest.mark.services
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_rows(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs.program("java", "openjdk-17-jre-headless")
    needs.package("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import mlflow
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import struct

    from presseco.registry import log_and_register

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("spark", artifact_location=str(tmp_path / "artifacts"))
    mlflow.set_experiment("spark")
    with mlflow.start_run():
        log_and_register("camembert", "presseco", tiny_bundle, TASKS, "a test")
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "1000")
        .config("spark.local.dir", str(tmp_path))
        .getOrCreate()
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            classify = mlflow.pyfunc.spark_udf(
                spark, "models:/presseco@champion", env_manager="local"
            )
        lines = (tiny_bundle / "golden.jsonl").read_text("utf-8").splitlines()
        golden = [json.loads(line)["text"] for line in lines]
        _compare(spark, classify, struct, golden, Classifier.load(tiny_bundle))
        _count(spark, classify, struct)
    finally:
        spark.stop()
    assert os.environ["PYSPARK_PYTHON"] == sys.executable


def _compare(spark: Any, classify: Any, struct: Any, texts: list[str], here: Classifier) -> None:
    table = spark.createDataFrame(list(enumerate(texts)), ["id", "text"])
    rows = table.withColumn("answer", classify(struct("text"))).orderBy("id").collect()
    for row, p in zip(rows, here.predict(texts), strict=True):
        for task in TASKS:
            answer = row["answer"]
            assert answer[f"{task}_probability"] == pytest.approx(p[task].probability, abs=0.02)
            if p[task].probability > 0.6:
                assert answer[task] == p[task].label


def _count(spark: Any, classify: Any, struct: Any) -> None:
    table = spark.range(100_000).selectExpr("id", "concat('Brève ', id, ' : le titre gagne') text")
    answers = table.withColumn("answer", classify(struct("text"))).select("id", "answer.*")
    counted = answers.groupBy("sector").count().collect()
    assert sum(r["count"] for r in counted) == 100_000
    assert all(r["sector"] for r in counted)
