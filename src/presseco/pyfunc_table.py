"""Tables in and out of the MLflow models, and the parameters of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from numpy.typing import NDArray


@dataclass(frozen=True)
class TaskAnswers:
    """One task for all rows: `probabilities` has shape (rows, labels), `abstained` (rows,)."""

    name: str
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    abstained: NDArray[np.bool_]


def signature(tasks: list[str]) -> ModelSignature:
    """Return the models' signature: a text and an optional title in, three columns a task out."""
    inputs = Schema([ColSpec("string", "text"), ColSpec("string", "title", required=False)])
    columns = []
    for task in tasks:
        columns += [
            ColSpec("string", task),
            ColSpec("double", f"{task}_probability"),
            ColSpec("boolean", f"{task}_abstained"),
        ]
    params = ParamSchema([ParamSpec("top_k", "long", 1), ParamSpec("abstain", "boolean", False)])
    return ModelSignature(inputs=inputs, outputs=Schema(columns), params=params)


def texts_and_titles(table: Any) -> tuple[list[str], list[str | None]]:
    """Return the texts and titles of a model input; a bad one gives a 400, not a stack trace."""
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(table)
    if len(frame) == 1 and isinstance(frame.iloc[0, 0], (list, np.ndarray)):
        frame = _unpack(frame)
    if frame.empty:
        return [], []
    if "text" not in frame.columns:
        _refuse(f"the input has columns {list(map(str, frame.columns))}; expected 'text', 'title'?")
    texts = frame["text"].tolist()
    titles = frame["title"].tolist() if "title" in frame.columns else [None] * len(texts)
    # pandas writes an absent title as NaN.
    titles = [None if t is None or t is pd.NA or t != t else t for t in titles]
    for name, values in (("text", texts), ("title", [t for t in titles if t is not None])):
        if bad := [type(v).__name__ for v in values if not isinstance(v, str)]:
            _refuse(f"'{name}' holds {bad[0]}; expected strings")
    return texts, titles


def _unpack(frame: pd.DataFrame) -> pd.DataFrame:
    # {"inputs": {"text": [a, b]}} arrives as one row that holds lists.
    columns = {str(name): list(np.atleast_1d(frame[name].iloc[0])) for name in frame.columns}
    if len({len(values) for values in columns.values()}) > 1:
        _refuse(f"columns of different lengths: { ({k: len(v) for k, v in columns.items()}) }")
    return pd.DataFrame(columns)


def answer_table(answers: list[TaskAnswers], params: dict[str, Any] | None) -> pd.DataFrame:
    """Return label, probability and abstention of every task, one row a text.

    `top_k` over 1 adds a column `<task>_top` of the k best labels with their probabilities;
    `abstain` leaves the label empty where the model abstains.
    """
    top_k, abstain = _params(params)
    columns: dict[str, Any] = {}
    for a in answers:
        best = [a.labels[i] for i in a.probabilities.argmax(axis=1)]
        if abstain:
            best = [None if no else label for label, no in zip(best, a.abstained, strict=True)]
        columns[a.name] = pd.Series(best, dtype="object")
        columns[f"{a.name}_probability"] = a.probabilities.max(axis=1).astype("float64")
        columns[f"{a.name}_abstained"] = a.abstained.astype("bool")
        if top_k > 1:
            columns[f"{a.name}_top"] = pd.Series(_top(a, top_k), dtype="object")
    return pd.DataFrame(columns)


def _top(answers: TaskAnswers, k: int) -> list[list[dict[str, Any]]]:
    order = np.argsort(-answers.probabilities, axis=1, kind="stable")[:, :k]
    return [
        [{"label": answers.labels[i], "probability": float(row[i])} for i in best]
        for row, best in zip(answers.probabilities, order, strict=True)
    ]


def _params(params: dict[str, Any] | None) -> tuple[int, bool]:
    given = params or {}
    top_k = given.get("top_k", 1)
    if isinstance(top_k, bool) or int(top_k) != top_k or top_k < 1:
        _refuse(f"top_k is {top_k!r}; expected a whole number from 1")
    return int(top_k), bool(given.get("abstain", False))


def _refuse(message: str) -> None:
    raise MlflowException.invalid_parameter_value(message)
