"""Print how many texts a second a saved model classifies: `python -m presseco.speed KIND FOLDER FILE`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure(kind: str, folder: Path, texts: list[str]) -> float:
    """Return texts a second on all cores, after one warm-up batch of eight."""
    run: Callable[[list[str]], Any]
    if kind == "baseline":
        from presseco.baseline import load_baseline

        run = load_baseline(folder)[0].logits
    else:
        from presseco.classifier import Classifier

        run = Classifier.load(folder).predict
    run(texts[:8])
    started = time.perf_counter()
    run(texts)
    return len(texts) / (time.perf_counter() - started)


if __name__ == "__main__":
    print(measure(sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text("utf-8"))))
