"""MLflow model from code: the scikit-learn baseline behind the same interface as CamemBERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from presseco.baseline import load_baseline
from presseco.evaluate import split_logits
from presseco.pyfunc_table import empty_table, texts_and_titles
from presseco.text import prepare


class BaselineModel(PythonModel):
    """`predict` takes a table with `text` (and `title`) and returns three columns a task."""

    def load_context(self, context: Any) -> None:
        """Load the vectorisers and classifiers among the model's artifacts."""
        self.baseline, self.card = load_baseline(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: Any, params: Any = None) -> pd.DataFrame:
        """Return label, probability and abstention of every task for each row."""
        texts, titles = texts_and_titles(model_input)
        tasks = [name for name, _ in self.baseline.task_map]
        if not texts:
            return empty_table(tasks)
        prepared = [prepare(t, h) for t, h in zip(texts, titles or [None] * len(texts), strict=True)]
        logits = self.baseline.logits(prepared)
        probabilities = split_logits(logits, self.baseline.task_map, self.card["temperatures"])
        columns: dict[str, Any] = {}
        for name, labels in self.baseline.task_map:
            p = probabilities[name]
            columns[name] = [labels[i] for i in p.argmax(axis=1)]
            columns[f"{name}_probability"] = p.max(axis=1)
            columns[f"{name}_abstained"] = p.max(axis=1) < self.card["thresholds"][name]
        return pd.DataFrame(columns)


set_model(BaselineModel())
