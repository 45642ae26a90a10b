"""The database of one source: every article read, where it stands, and how far each file is read.

SQLite, since a batch of articles and the place to go on from must be saved together: a run killed
between the two would lose articles or read them twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from presseco.errors import SourceError

_TABLES = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS files (
  name TEXT PRIMARY KEY, size INT, mtime INT, resume INT, position INT, finished INT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS articles (
  file TEXT, position INT, place TEXT, stage TEXT, reason TEXT, detail TEXT, article TEXT,
  PRIMARY KEY (file, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prints (
  file TEXT, position INT, id TEXT, story TEXT, digest INT, signature BLOB,
  PRIMARY KEY (file, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stories (
  file TEXT, position INT, story TEXT, reason TEXT, detail TEXT, PRIMARY KEY (file, position)
) WITHOUT ROWID;
"""


class Result(NamedTuple):
    """What the stages made of one piece: an article with its fingerprint, or a reason without."""

    file: str
    position: int
    place: str
    stage: str
    reason: str = ""
    detail: str = ""
    article: str = ""
    id: str = ""
    story: str = ""
    digest: int = 0
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file is read: `resume` as in `Piece`, and whether its end was reached."""

    file: str
    resume: int
    position: int
    finished: bool


class Collection:
    """One source's database; a second run on the same one is refused while the first is at work."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            # NORMAL: a killed process loses nothing, a power cut at most the last batches.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript("BEGIN IMMEDIATE;" + _TABLES + "COMMIT;")
        except sqlite3.OperationalError as e:
            self._db.close()
            raise SourceError(f"{path}: {e}. Is another run at work on this source?") from None
        except sqlite3.DatabaseError as e:
            self._db.close()
            raise SourceError(f"{path}: {e}. Delete the file: the source is read again.") from None

    def close(self) -> None:
        """Close the database; what was added is kept."""
        self._db.close()

    def start(self, stamp: str) -> bool:
        """Forget everything if the settings changed since the last run; tell whether they did."""
        old = self._db.execute("SELECT value FROM settings WHERE name = 'stamp'").fetchone()
        changed = old is not None and old[0] != stamp
        self._db.execute("BEGIN")
        if changed:
            for table in ("files", "articles", "prints", "stories"):
                self._db.execute(f"DELETE FROM {table}")
        self._db.execute("REPLACE INTO settings VALUES ('stamp', ?)", (stamp,))
        self._db.execute("COMMIT")
        return changed

    def progress(self, name: str, size: int, mtime: int) -> Progress:
        """Return how far a file is read; a file that changed is forgotten and starts anew."""
        row = self._db.execute(
            "SELECT size, mtime, resume, position, finished FROM files WHERE name = ?", (name,)
        ).fetchone()
        if row and row[:2] == (size, mtime):
            return Progress(name, row[2], row[3], bool(row[4]))
        self._db.execute("BEGIN")
        if row:
            self._forget(name)
        self._db.execute("INSERT INTO files VALUES (?, ?, ?, 0, 0, 0)", (name, size, mtime))
        self._db.execute("COMMIT")
        return Progress(name, 0, 0, False)

    def forget_missing(self, names: set[str]) -> int:
        """Forget files that the source no longer has; return how many."""
        gone = [n for (n,) in self._db.execute("SELECT name FROM files") if n not in names]
        self._db.execute("BEGIN")
        for name in gone:
            self._forget(name)
        self._db.execute("COMMIT")
        return len(gone)

    def forget(self, name: str) -> None:
        """Forget one file and its articles."""
        self._db.execute("BEGIN")
        self._forget(name)
        self._db.execute("COMMIT")

    def names(self) -> set[str]:
        """Return the files that were read to their end."""
        return {n for (n,) in self._db.execute("SELECT name FROM files WHERE finished")}

    def add(self, results: Sequence[Result], progress: Iterable[Progress]) -> None:
        """Save a batch and how far its files are read, both or neither."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "REPLACE INTO articles VALUES (?, ?, ?, ?, ?, ?, ?)", (r[:7] for r in results)
        )
        self._db.executemany(
            "REPLACE INTO prints VALUES (?, ?, ?, ?, ?, ?)",
            ((r.file, r.position, *r[7:]) for r in results if r.article),
        )
        self._db.executemany(
            "UPDATE files SET resume = ?, position = ?, finished = ? WHERE name = ?",
            ((p.resume, p.position, p.finished, p.file) for p in progress),
        )
        self._db.execute("COMMIT")

    def prints(
        self, values: int
    ) -> tuple[list[tuple[str, str]], npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
        """Return `(id, story)` of every article in order, digests (n,), signatures (n, values)."""
        n = self._db.execute("SELECT COUNT(*) FROM prints").fetchone()[0]
        names: list[tuple[str, str]] = []
        digests = np.empty(n, dtype=np.int64)
        signatures = np.empty((n, values), dtype=np.uint32)
        rows = self._db.execute(
            "SELECT id, story, digest, signature FROM prints ORDER BY file, position"
        )
        for i, (name, story, digest, signature) in enumerate(rows):
            names.append((name, story))
            digests[i], signatures[i] = digest, np.frombuffer(signature, dtype=np.uint32)
        return names, digests, signatures

    def set_stories(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Replace the clusters: `(story, reason, detail)` of every article, in order of prints."""
        keys = self._db.execute("SELECT file, position FROM prints ORDER BY file, position")
        both = zip(keys.fetchall(), rows, strict=True)
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM stories")
        self._db.executemany(
            "INSERT INTO stories VALUES (?, ?, ?, ?, ?)", ((*key, *row) for key, row in both)
        )
        self._db.execute("COMMIT")

    def results(self) -> Iterator[Result]:
        """Yield every result in order, with its story, and with a copy's reason."""
        rows = self._db.execute(
            "SELECT a.file, a.position, place, stage, a.reason, a.detail, article, p.id, s.story,"
            " s.reason, s.detail FROM articles a"
            " LEFT JOIN prints p ON p.file = a.file AND p.position = a.position"
            " LEFT JOIN stories s ON s.file = a.file AND s.position = a.position"
            " ORDER BY a.file, a.position"
        )
        for file, position, place, stage, reason, detail, article, name, story, late, why in rows:
            if late:
                stage, reason, detail = "duplicates", late, why
            yield Result(
                file, position, place, stage, reason, detail, article, name or "", story or ""
            )

    def _forget(self, name: str) -> None:
        for table, column in (
            ("files", "name"),
            ("articles", "file"),
            ("prints", "file"),
            ("stories", "file"),
        ):
            self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (name,))
