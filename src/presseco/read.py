"""Stage "read": cut a folder's files into pieces, one an article, in constant memory."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from presseco.document import MAX_BYTES, Kind, Piece
from presseco.errors import SourceError

_ARTICLE_FILES: dict[str, Kind] = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}
_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
SUFFIXES = (*_ARTICLE_FILES, *_LINES, ".json", *_TABLES, ".parquet")
#: Rows of a parquet file in memory at a time.
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a source as the collection remembers it: changed size or time means read again."""

    name: str
    path: Path
    size: int
    mtime: int


def listing(root: Path) -> Iterator[Entry]:
    """Yield all files below `root`, or `root` itself, in order; leading dots hide."""
    if root.is_file():
        yield _entry(root, root.name)
        return
    if not root.is_dir():
        raise SourceError(f"input.path: {root} does not exist; expected a folder or a file")
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(f for f in files if not f.startswith(".")):
            path = Path(folder, name)
            yield _entry(path, path.relative_to(root).as_posix())


def _entry(path: Path, name: str) -> Entry:
    # A name that is not UTF-8 cannot be stored; \xNN in its place still says which file it is.
    shown = os.fsencode(name).decode("utf-8", "backslashreplace")
    try:
        stat = path.stat()
    except OSError:  # a dangling link: reading it will say so in quarantine
        return Entry(shown, path, 0, 0)
    return Entry(shown, path, stat.st_size, stat.st_mtime_ns)


def pieces(entry: Entry, offset: int = 0, position: int = 0) -> Iterator[Piece]:
    """Yield a file's pieces after (`offset`, `position`), then one that is `final`.

    Nothing raises: what cannot be read is a piece with a problem.
    """
    empty, resume = position == 0, offset
    try:
        for piece in _cut(entry, offset, position):
            empty, resume, position = False, piece.resume, piece.position
            yield piece
    except OSError as e:
        problem = ("unreadable", e.strerror or str(e))
        yield Piece(entry.name, position + 1, resume, problem=problem, try_again=True)
        return
    if empty:
        problem = ("empty_file", f"{entry.size:,} bytes, no article in them")
        yield Piece(entry.name, 1, 0, problem=problem)
    yield Piece(entry.name, position + 1, resume, final=True)


def _cut(entry: Entry, offset: int, position: int) -> Iterator[Piece]:
    suffix = entry.path.suffix.lower()
    if suffix in _ARTICLE_FILES:
        return _article(entry, _ARTICLE_FILES[suffix])
    if suffix in _LINES:
        return _lines(entry, offset, position)
    if suffix == ".json":
        return _json(entry, offset, position)
    if suffix in _TABLES:
        return _table(entry, offset)
    if suffix == ".parquet":
        return _parquet(entry, offset)
    problem = ("file_type", f"{suffix or 'no suffix'}; read are {' '.join(SUFFIXES)}")
    return iter([Piece(entry.name, 1, 1, problem=problem)])


def _article(entry: Entry, kind: Kind) -> Iterator[Piece]:
    with entry.path.open("rb") as f:
        body = f.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        yield Piece(entry.name, 1, 1, problem=_too_large(entry.size))
    elif body.strip():
        yield Piece(entry.name, 1, 1, kind, body)


def _too_large(size: int) -> tuple[str, str]:
    return "too_large", f"{size:,} bytes, at most {MAX_BYTES:,} for one article"


def _lines(entry: Entry, offset: int, position: int) -> Iterator[Piece]:
    with entry.path.open("rb") as f:
        f.seek(offset)
        while line := f.readline(MAX_BYTES):
            position += 1
            if rest := _pass_over(f, line):
                problem = _too_large(len(line) + rest)
                yield Piece(entry.name, position, f.tell(), "json", problem=problem)
            elif line.strip():
                yield Piece(entry.name, position, f.tell(), "json", line)


def _pass_over(f: IO[bytes], line: bytes) -> int:
    """Read to the end of a line that is larger than an article may be; return how much was left."""
    rest = 0
    while not line.endswith(b"\n") and (line := f.readline(MAX_BYTES)):
        rest += len(line)
    return rest


def _json(entry: Entry, offset: int, position: int) -> Iterator[Piece]:
    """A .json file is an array of articles, one article, or (often) JSON Lines under that name."""
    with entry.path.open("rb") as f:
        start = f.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"["):
        return _array(entry, offset)
    if start.startswith(b"{") and _is_object(start.split(b"\n", 1)[0]):
        return _lines(entry, offset, position)
    return (Piece(p.file, 1, 1, "json", p.body, problem=p.problem) for p in _article(entry, "json"))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        # A first line longer than what was looked at: an object laid out over lines is short there.
        return len(line) > 1000


def _array(entry: Entry, start: int) -> Iterator[Piece]:
    import ijson

    row = 0
    with entry.path.open("rb") as f:
        try:
            for row, item in enumerate(ijson.items(f, "item", use_float=True), 1):
                if row > start:
                    fields = item if isinstance(item, dict) else {}
                    yield Piece(entry.name, row, row, "row", fields=fields)
        except (ijson.JSONError, UnicodeDecodeError) as e:
            problem = ("broken_json", f"after row {row}: {_first_line(e)}")
            yield Piece(entry.name, row + 1, row + 1, "row", problem=problem)


def _table(entry: Entry, start: int) -> Iterator[Piece]:
    with entry.path.open("rb") as f:
        sample = f.read(4)
    encoding = "utf-16" if sample[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    # Bytes that are not UTF-8 are carried through as surrogates: the stage "repair" decodes them.
    with entry.path.open(encoding=encoding, errors="surrogateescape", newline="") as f:
        csv.field_size_limit(MAX_BYTES)
        head = f.readline(MAX_BYTES)
        delimiter = max(",;\t|", key=head.count)
        header = [h.strip() for h in next(csv.reader([head], delimiter=delimiter), [])]
        rows = csv.reader(iter(lambda: f.readline(MAX_BYTES), ""), delimiter=delimiter)
        for number, row in enumerate(_rows(rows), 1):
            if number > start and row != []:
                line = rows.line_num + 1
                yield _record(entry.name, line, number, header, row)


def _rows(rows: Any) -> Iterator[list[str] | str]:
    """Yield rows, and the error's text in place of a row that cannot be cut out."""
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as e:
            yield str(e)


def _record(name: str, line: int, number: int, header: list[str], row: list[str] | str) -> Piece:
    if isinstance(row, str):
        return Piece(name, line, number, "row", problem=("broken_table", row))
    if len(row) > len(header):
        detail = f"{len(row)} fields under a header of {len(header)}; is a text not quoted?"
        return Piece(name, line, number, "row", problem=("broken_table", detail))
    return Piece(name, line, number, "row", fields=dict(zip(header, row, strict=False)))


def _parquet(entry: Entry, start: int) -> Iterator[Piece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(entry.path) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                if row + batch.num_rows <= start:
                    row += batch.num_rows
                    continue
                for fields in batch.to_pylist():
                    row += 1
                    if row > start:
                        yield Piece(entry.name, row, row, "row", fields=fields)
    except pa.ArrowException as e:
        problem = ("broken_table", _first_line(e))
        yield Piece(entry.name, row + 1, row + 1, "row", problem=problem)


def _first_line(e: Exception) -> str:
    return str(e).strip().split("\n", 1)[0][:200]
