"""MLflow model from code: the scikit-learn baseline behind the same interface as CamemBERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from presseco.baseline import load_baseline
from presseco.evaluate import split_logits
from presseco.pyfunc_table import TaskAnswers, answer_table, texts_and_titles
from presseco.text import prepare


class BaselineModel(PythonModel):
    """`predict` takes a table with `text` (and `title`) and returns three columns a task."""

    def load_context(self, context: Any) -> None:
        """Load the vectorisers and classifiers among the model's artifacts."""
        self.baseline, self.card = load_baseline(Path(context.artifacts["model"]))

    # A hint that mlflow takes for no schema: ours (a text, maybe a title) stays, without a warning.
    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return label, probability and abstention of every task for each row."""
        texts, titles = texts_and_titles(model_input)
        prepared = [prepare(text, title) for text, title in zip(texts, titles, strict=True)]
        width = sum(len(labels) for _, labels in self.baseline.task_map)
        logits = self.baseline.logits(prepared) if prepared else np.zeros((0, width))
        blank = np.array([not any(map(str.isalnum, t)) for t in prepared], dtype=np.bool_)
        calibrated = split_logits(logits, self.baseline.task_map, self.card["temperatures"])
        answers = []
        for name, labels in self.baseline.task_map:
            p = calibrated[name]
            sure = p.max(axis=1, initial=0) >= self.card["thresholds"][name]
            answers.append(TaskAnswers(name, tuple(labels), p, blank | ~sure))
        return answer_table(answers, params)


set_model(BaselineModel())
