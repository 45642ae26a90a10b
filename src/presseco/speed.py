"""Print how many texts a second a saved model classifies: `python -m presseco.speed KIND FOLDER FILE`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
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


def docs_per_second(folder: Path, kind: str, texts: list[str]) -> float:
    """Return how many texts a second the saved model classifies, after one warm-up batch.

    Measured in a process of its own: idle thread pools of torch slow onnxruntime several times.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        command = [sys.executable, "-m", "presseco.speed", kind, str(folder.resolve()), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the speed measurement of {folder} failed: {done.stderr.strip()[-500:]}"
        )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    print(measure(sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text("utf-8"))))
