"""Classify a JSON Lines file of any size: constant memory, progress, and resume after a kill."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presseco.classifier import Classifier
from presseco.errors import ArticleError

#: Lines classified together: enough to sort by length, little enough to lose little when killed.
CHUNK = 256


@dataclass(frozen=True)
class Document:
    """One input line. `text` may be empty only if `title` is not."""

    id: Any
    text: str
    title: str | None


def predict_file(model: str, source: Path, target: Path, *, precision: str = "auto") -> int:
    """Write one answer a line of `source` to `target`; return how many were written.

    The answers grow in `<target>.part`, which a run that starts again continues; `target` appears
    when all are there. A line that is no document raises `ArticleError` naming file and line, and
    leaves the answers so far in the part file.
    """
    if not source.is_file():
        raise ArticleError(f"{source}: no such file; expected JSON lines with 'id' and 'text'")
    classifier = Classifier.load(model, precision=precision)
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    done = _answered(part)
    with source.open(encoding="utf-8") as lines, part.open("a", encoding="utf-8") as out:
        for chunk in _chunks(lines, source, skip=done):
            predictions = classifier.predict([d.text for d in chunk], [d.title for d in chunk])
            for document, prediction in zip(chunk, predictions, strict=True):
                row = {"id": document.id, **prediction.to_dict()}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            done += len(chunk)
            if sys.stderr.isatty():
                print(f"\r{done:,} articles", end="", file=sys.stderr)
    part.replace(target)
    return done


def parse_document(line: str, where: str) -> Document:
    """Return the document of one JSON line `{"id", "title"?, "text"}`."""
    try:
        row = json.loads(line)
    except ValueError as e:
        raise ArticleError(f"{where}: broken JSON: {e}") from None
    if not isinstance(row, dict) or "id" not in row:
        raise ArticleError(f"{where}: expected an object with 'id', 'text' and perhaps 'title'")
    text, title = row.get("text"), row.get("title")
    if not isinstance(text, str) or not (title is None or isinstance(title, str)):
        found = type(text if not isinstance(text, str) else title).__name__
        raise ArticleError(f"{where}: 'text' and 'title' must be strings, found {found}")
    if not text.strip() and not (title or "").strip():
        raise ArticleError(f"{where}: article {row['id']!r} has no text")
    return Document(row["id"], text, title)


def _chunks(lines: Any, source: Path, skip: int) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    seen = 0
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            seen += 1
            if seen <= skip:
                continue
            chunk.append(parse_document(line, f"{source}:{number}"))
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    except UnicodeDecodeError as e:
        raise ArticleError(f"{source}: not UTF-8 (byte {e.start}). Convert it to UTF-8.") from None
    if chunk:
        yield chunk


def _answered(part: Path) -> int:
    """Return how many whole lines a part file has; cut a last line that a kill left half-written."""
    if not part.exists():
        return 0
    data = part.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        part.write_bytes(whole)
    return whole.count(b"\n")
