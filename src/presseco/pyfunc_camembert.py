"""MLflow model from code: the bundle behind a text-in, columns-out interface."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from presseco.classifier import Classifier
from presseco.pyfunc_table import empty_table, texts_and_titles


class CamembertModel(PythonModel):
    """`predict` takes a table with `text` (and `title`) and returns three columns a task."""

    def load_context(self, context: Any) -> None:
        """Load the bundle among the model's artifacts."""
        self.classifier = Classifier.load(context.artifacts["model"])

    def predict(self, context: Any, model_input: Any, params: Any = None) -> pd.DataFrame:
        """Return label, probability and abstention of every task for each row."""
        texts, titles = texts_and_titles(model_input)
        tasks = [t.name for t in self.classifier.bundle.tasks]
        if not texts:
            return empty_table(tasks)
        rows = []
        for p in self.classifier.predict(texts, titles):
            row: dict[str, Any] = {}
            for task, a in p.answers.items():
                row |= {
                    task: a.label,
                    f"{task}_probability": a.probability,
                    f"{task}_abstained": a.abstained,
                }
            rows.append(row)
        return pd.DataFrame(rows)


set_model(CamembertModel())
