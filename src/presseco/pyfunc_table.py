"""Tables in and out of the MLflow models."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException


def texts_and_titles(table: Any) -> tuple[list[str], list[str | None] | None]:
    """Return the texts and titles of a model input; a bad one gives a 400, not a stack trace."""
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(table)
    if frame.empty:
        return [], None
    if "text" not in frame.columns:
        raise MlflowException.invalid_parameter_value(
            f"the input has columns {list(map(str, frame.columns))}; expected 'text' (and 'title')"
        )
    texts = frame["text"].tolist()
    if bad := [type(t).__name__ for t in texts if not isinstance(t, str)]:
        raise MlflowException.invalid_parameter_value(f"'text' holds {bad[0]}; expected strings")
    titles = frame["title"].tolist() if "title" in frame.columns else None
    return texts, [t if isinstance(t, str) else None for t in titles] if titles else None


def empty_table(tasks: list[str]) -> pd.DataFrame:
    """Return no rows, with the columns and types of an answer."""
    columns: dict[str, Any] = {}
    for task in tasks:
        columns[task] = pd.Series(dtype="str")
        columns[f"{task}_probability"] = pd.Series(dtype="float64")
        columns[f"{task}_abstained"] = pd.Series(dtype="bool")
    return pd.DataFrame(columns)
