"""Read the articles to classify, row by row: JSON Lines, CSV, TSV or parquet of any size."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presseco.errors import ArticleError

_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Document:
    """One input row. `text` may be empty only if `title` is not."""

    id: Any
    text: str
    title: str | None


def documents(source: Path) -> Iterator[Document]:
    """Yield the rows of `source` in order; its suffix says the format, JSON Lines if unknown.

    Every row has `id`, `text` and perhaps `title`. Raises `ArticleError` naming file and row.
    """
    if not source.is_file():
        raise ArticleError(f"{source}: no such file; expected rows with 'id', 'text' and 'title'?")
    suffix = source.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(source)
        return
    try:
        with source.open(encoding="utf-8-sig", newline="" if suffix in _TABLES else None) as lines:
            yield from _table(lines, source, suffix) if suffix in _TABLES else _lines(lines, source)
    except UnicodeDecodeError as e:
        raise ArticleError(f"{source}: not UTF-8 ({e.reason}). Convert it to UTF-8.") from None


def parse_document(line: str, where: str) -> Document:
    """Return the document of one JSON line `{"id", "title"?, "text"}`."""
    try:
        row = json.loads(line)
    except ValueError as e:
        raise ArticleError(f"{where}: broken JSON: {e}") from None
    if not isinstance(row, dict):
        raise ArticleError(f"{where}: expected an object with 'id', 'text' and perhaps 'title'")
    return _document(row, where)


def _lines(lines: Any, source: Path) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield parse_document(line, f"{source}:{number}")


def _table(lines: Any, source: Path, suffix: str) -> Iterator[Document]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(lines, delimiter=_TABLES[suffix], strict=True)
    try:
        _check_columns(reader.fieldnames or [], source)
        for row in reader:
            where = f"{source}:{reader.line_num}"
            if None in row or None in row.values():
                raise ArticleError(f"{where}: the row has another number of fields than the header")
            yield _document({**row, "title": row.get("title") or None}, where)
    except csv.Error as e:
        raise ArticleError(f"{source}:{reader.line_num}: broken CSV: {e}") from None


def _parquet(source: Path) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source)
        columns = [c for c in ("id", "title", "text") if c in file.schema_arrow.names]
        _check_columns(columns, source)
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield _document(row, f"{source}, row {number}")
    except (pa.ArrowException, OSError) as e:
        raise ArticleError(f"{source}: cannot be read as parquet: {e}") from None


def _check_columns(columns: Any, source: Path) -> None:
    if missing := [c for c in ("id", "text") if c not in columns]:
        raise ArticleError(
            f"{source}: no column {' and '.join(missing)}; found {', '.join(columns) or 'none'}"
        )


def _document(row: dict[str, Any], where: str) -> Document:
    if "id" not in row:
        raise ArticleError(f"{where}: expected 'id', 'text' and perhaps 'title'; found {list(row)}")
    text, title = row.get("text"), row.get("title")
    if not isinstance(text, str) or not (title is None or isinstance(title, str)):
        found = type(text if not isinstance(text, str) else title).__name__
        raise ArticleError(f"{where}: 'text' and 'title' must be strings, found {found}")
    if not text.strip() and not (title or "").strip():
        raise ArticleError(f"{where}: article {row['id']!r} has no text")
    return Document(row["id"], text, title)
