"""Sources for tests: real articles of ours in a folder, and a source file's settings for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import ROOT
from presseco.config import Config, read_config
from presseco.source import Source

CONFIG: Config = read_config(ROOT / "configs" / "experiment" / "baseline.yaml")


def texts(number: int, start: int = 0) -> list[str]:
    """Return the texts of our first articles, all different, all French business news."""
    with (ROOT / "data" / "articles" / "first-600.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in list(lines)[start : start + number]]


def source(folder: Path, **changes: Any) -> Source:
    """Return the settings of a folder source whose output lies beside the folder."""
    settings: dict[str, Any] = {
        "name": "essai",
        "rights": {"licence": "contract", "redistribute_text": False, "attribution": "Le Test"},
        "input": {"kind": "folder", "path": str(folder)},
        "output": str(folder.parent / "out"),
    }
    return Source.model_validate(settings | changes)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
