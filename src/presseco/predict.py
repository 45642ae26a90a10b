"""Classify a file of any size: constant memory, progress, and resume after a kill."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from presseco.classifier import Classifier
from presseco.documents import documents
from presseco.errors import StoreError
from presseco.files import replacing, write_text

#: Articles classified together: enough to sort by length, little enough to lose little when killed.
CHUNK = 256


def predict_file(model: str, source: Path, target: Path, *, precision: str = "auto") -> int:
    """Write one answer a row of `source` to `target`, in order; return how many.

    `target` is JSON Lines, or by its suffix CSV or parquet. The answers grow in `<target>.part`,
    which a run that starts again continues, and `target` appears when all are there. A row that is
    no document raises `ArticleError` and leaves the answers so far. Raises `StoreError` when the
    part file is of another input or model.
    """
    if target.is_dir() or target.resolve() == source.resolve():
        what = "a folder" if target.is_dir() else "the input itself"
        raise StoreError(f"--output {target} is {what}; name a file of its own for the answers")
    rows = documents(source)
    first = next(rows, None)  # a missing or broken input is said before the model is loaded
    classifier = Classifier.load(model, precision=precision)
    target.parent.mkdir(parents=True, exist_ok=True)
    part, note = (target.with_name(f"{target.name}.part{x}") for x in ("", ".json"))
    done = _resume(part, note, _origin(source, classifier))
    todo = islice(_with(first, rows), done, None)
    before, started = done, time.monotonic()
    with part.open("a", encoding="utf-8") as out:
        while chunk := list(islice(todo, CHUNK)):
            predictions = classifier.predict([d.text for d in chunk], [d.title for d in chunk])
            for document, prediction in zip(chunk, predictions, strict=True):
                row = {"id": document.id, **prediction.to_dict()}
                out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            out.flush()
            done += len(chunk)
            _progress(done, (done - before) / (time.monotonic() - started))
    _finish(part, target, [t.name for t in classifier.bundle.tasks])
    note.unlink()
    return done


def _with(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
        yield from rest


def _progress(done: int, speed: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{done:,} articles, {speed:.1f} a second ", end="", file=sys.stderr, flush=True)


def _origin(source: Path, classifier: Classifier) -> dict[str, Any]:
    bundle, stat = classifier.bundle, source.stat()
    return {
        "source": str(source.resolve()),
        "bytes": stat.st_size,
        "modified": stat.st_mtime_ns,
        "model": f"{bundle.name}@{bundle.version}",
        "precision": classifier.precision,
    }


def _resume(part: Path, note: Path, origin: dict[str, Any]) -> int:
    """Return how many answers a part file holds; refuse one that is not of this input and model."""
    if not part.exists():
        write_text(note, json.dumps(origin))
        return 0
    before = json.loads(note.read_text("utf-8")) if note.exists() else {}
    if before != origin:
        differ = ", ".join(k for k in origin if before.get(k) != origin[k])
        raise StoreError(
            f"{part}: answers of an earlier run with another {differ}. Remove it to start anew, or "
            "write to another file."
        )
    return _answered(part)


def _answered(part: Path) -> int:
    """Return how many whole lines a part file has; cut a last line that a kill left half-written."""
    count = whole = 0
    with part.open("rb+") as f:
        for line in f:
            if line.endswith(b"\n"):
                count, whole = count + 1, whole + len(line)
        f.truncate(whole)
    return count


def _finish(part: Path, target: Path, tasks: list[str]) -> None:
    suffix = target.suffix.lower()
    if suffix == ".csv":
        _write_csv(part, target, tasks)
    elif suffix == ".parquet":
        _write_parquet(part, target, tasks)
    else:
        part.replace(target)
        return
    part.unlink()


def _flat(part: Path) -> Iterator[dict[str, Any]]:
    """Yield the answers as flat rows: id, then label, probability and abstention a task."""
    with part.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            flat = {"id": row.pop("id")}
            for task, answer in row.items():
                flat |= {
                    task: answer["label"],
                    f"{task}_probability": answer["probability"],
                    f"{task}_abstained": answer["abstained"],
                }
            yield flat


def _columns(tasks: list[str]) -> list[str]:
    return ["id", *(f"{t}{x}" for t in tasks for x in ("", "_probability", "_abstained"))]


def _write_csv(part: Path, target: Path, tasks: list[str]) -> None:
    with replacing(target) as new, new.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, _columns(tasks))
        writer.writeheader()
        writer.writerows(_flat(part))


def _write_parquet(part: Path, target: Path, tasks: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = next(_flat(part), {"id": ""})
    # Ids keep their type where all could: a column of whole numbers, else strings.
    whole = isinstance(first["id"], int) and all(type(r["id"]) is int for r in _flat(part))
    fields = [pa.field("id", pa.int64() if whole else pa.string())]
    for task in tasks:
        fields += [
            pa.field(task, pa.string()),
            pa.field(f"{task}_probability", pa.float64()),
            pa.field(f"{task}_abstained", pa.bool_()),
        ]
    rows = _flat(part)
    with replacing(target) as new, pq.ParquetWriter(new, pa.schema(fields)) as out:
        while chunk := list(islice(rows, CHUNK)):
            ready = [r if whole else {**r, "id": str(r["id"])} for r in chunk]
            out.write_table(pa.Table.from_pylist(ready, schema=out.schema))
