"""MLflow model from code: the bundle behind a text-in, columns-out interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from presseco.classifier import Classifier
from presseco.pyfunc_table import TaskAnswers, answer_table, texts_and_titles


class CamembertModel(PythonModel):
    """`predict` takes a table with `text` (and `title`) and returns three columns a task."""

    def load_context(self, context: Any) -> None:
        """Load the bundle among the model's artifacts."""
        self.classifier = Classifier.load(context.artifacts["model"])

    # A hint that mlflow takes for no schema: ours (a text, maybe a title) stays, without a warning.
    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return label, probability and abstention of every task for each row."""
        predictions = self.classifier.predict(*texts_and_titles(model_input))
        answers = []
        for task in self.classifier.bundle.tasks:
            given = [p[task.name] for p in predictions]
            rows = [list(a.probabilities.values()) for a in given]
            p = np.array(rows, dtype=np.float64).reshape(len(rows), len(task.labels))
            abstained = np.array([a.abstained for a in given], dtype=np.bool_)
            answers.append(TaskAnswers(task.name, task.labels, p, abstained))
        return answer_table(answers, params)


set_model(CamembertModel())
