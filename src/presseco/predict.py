"""Classify a file of any size: constant memory, progress, and resume after a kill."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presseco.classifier import Classifier
from presseco.documents import Document, documents
from presseco.errors import StoreError
from presseco.files import replacing, write_text

if TYPE_CHECKING:
    from presseco.cascade import Cascade

#: Articles classified together: enough to sort by length, little enough to lose little when killed.
CHUNK = 256


def predict_file(
    model: str,
    source: Path,
    target: Path,
    *,
    precision: str = "auto",
    cascade: Path | None = None,
) -> int:
    """Write one answer a row of `source` to `target`, in order; return how many.

    With `cascade`, the folder of a baseline, that one answers the articles that it is sure of.

    `target` is JSON Lines, or by its suffix CSV or parquet. The answers grow in `<target>.part`,
    which a run that starts again continues, and `target` appears when all are there. A row that is
    no document raises `ArticleError` and leaves the answers so far: mend it and start again. Raises
    `StoreError` when the part file is of another model, of other rows, or being written.
    """
    if target.is_dir() or target.resolve() == source.resolve():
        what = "a folder" if target.is_dir() else "the input itself"
        raise StoreError(f"--output {target} is {what}; name a file of its own for the answers")
    rows = documents(source)
    first = next(rows, None)  # a missing or broken input is said before the model is loaded
    classifier = _load(model, precision, cascade)
    target.parent.mkdir(parents=True, exist_ok=True)
    part, note = (target.with_name(f"{target.name}.part{x}") for x in ("", ".json"))
    all_rows = _with(first, rows)
    with _alone(part, target):
        place = _resume(part, note, classifier, all_rows)
        _answer(part, place, classifier, all_rows)
        _finish(part, target, [t.name for t in classifier.bundle.tasks])
        note.unlink(missing_ok=True)  # the next run may have begun: the part is gone already
    return place.rows


@contextmanager
def _alone(part: Path, target: Path) -> Iterator[None]:
    """Hold the part file, made here if need be, against other processes until the block ends.

    Where the system or the file system has no such locks (Windows), nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with part.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.path.samestat(os.fstat(held.fileno()), part.stat())
        except (BlockingIOError, FileNotFoundError):  # or done, and moved away, just now
            free = False
        except OSError:  # a file system without locks
            free = True
        if not free:
            raise StoreError(
                f"{part}: another presseco predict is writing {target}. Wait until it is done, or "
                "write to another file."
            )
        yield


def _answer(
    part: Path, place: _Place, classifier: Classifier | Cascade, rows: Iterator[Document]
) -> None:
    before, started = place.rows, time.monotonic()
    with part.open("a", encoding="utf-8") as out:
        while chunk := list(islice(rows, CHUNK)):
            predictions = classifier.predict([d.text for d in chunk], [d.title for d in chunk])
            for document, prediction in zip(chunk, predictions, strict=True):
                row = {"id": document.id, **prediction.to_dict()}
                out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            out.flush()
            place.note(chunk)
            _progress(place.rows, (place.rows - before) / (time.monotonic() - started))


def _load(model: str, precision: str, cascade: Path | None) -> Classifier | Cascade:
    classifier = Classifier.load(model, precision=precision)
    if cascade is None:
        return classifier
    from presseco.cascade import Cascade  # scikit-learn, which is no part of the base install

    return Cascade.load(cascade, classifier)


def _with(first: Document | None, rest: Iterator[Document]) -> Iterator[Document]:
    if first is not None:
        yield first
        yield from rest


def _progress(done: int, speed: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{done:,} articles, {speed:.1f} a second ", end="", file=sys.stderr, flush=True)


class _Place:
    """How far a part file has come, written beside it: rows answered, and a digest of these rows.

    The digest, and not the input's size or date, says whether the input is still the same: a row
    further on may have been mended in between.
    """

    def __init__(self, path: Path, model: dict[str, str]) -> None:
        self.path, self.model, self.rows = path, model, 0
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def add(self, documents: list[Document]) -> None:
        """Count some rows in."""
        for d in documents:
            self._digest.update(json.dumps([d.id, d.text, d.title], default=str).encode())
        self.rows += len(documents)

    def note(self, documents: list[Document]) -> None:
        """Count some rows in whose answers are on disk, and write it down."""
        self.add(documents)
        state = {**self.model, "rows": self.rows, "sha256": self.digest}
        write_text(self.path, json.dumps(state))


def _resume(
    part: Path, note: Path, classifier: Classifier | Cascade, rows: Iterator[Document]
) -> _Place:
    """Take the rows that a part file has answers of from `rows`; refuse answers of other rows."""
    bundle = classifier.bundle
    model = {
        "model": f"{bundle.name}@{bundle.version}",
        "precision": classifier.precision,
        "cascade": getattr(classifier, "name", ""),
    }
    place = _Place(note, model)
    if not part.exists() or not part.stat().st_size:  # holding it makes an empty one
        place.note([])
        return place
    before = {
        "rows": 0,
        "sha256": "",
        "cascade": "",
        **(json.loads(note.read_text("utf-8")) if note.exists() else {}),
    }
    differ = [k for k in model if before.get(k) != model[k]]
    while place.rows < before["rows"] and (
        chunk := list(islice(rows, min(CHUNK, before["rows"] - place.rows)))
    ):
        place.add(chunk)
    if place.digest != before["sha256"]:
        differ.append("input")
    if differ:
        raise StoreError(
            f"{part}: answers of an earlier run with another {', '.join(differ)}. Remove it to "
            "start anew, or write to another file."
        )
    _cut(part, place.rows)
    return place


def _cut(part: Path, rows: int) -> None:
    """Keep the first `rows` lines of a part file: a kill can leave more, and half a line."""
    with part.open("rb+") as f:
        f.truncate(sum(len(line) for line in islice(f, rows)))


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
