"""What is printed of a tracking server's address."""

from __future__ import annotations

import pytest

from presseco.server import without_secret


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://anna:geheim@mlflow.example/x", "https://mlflow.example/x"),
        ("postgresql+psycopg://u:p@db:5432/mlflow", "postgresql+psycopg://db:5432/mlflow"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////tmp/a/mlflow.db", "sqlite:////tmp/a/mlflow.db"),
    ],
)
def test_name_and_password_are_left_out_and_nothing_else(uri: str, shown: str) -> None:
    assert without_secret(uri) == shown
