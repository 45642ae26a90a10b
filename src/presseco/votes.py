"""The votes kept between runs: who said what of which text, so that only what is new is asked."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from presseco.article import Article
from presseco.errors import SourceError
from presseco.vote import Labeller, Vote

#: Articles that are asked about, and saved, together: a second or two of the slowest source.
_BATCH = 32


class VoteBook:
    """A SQLite file with the votes of every source on every article.

    A vote belongs to the source's stamp and the article's text: when either changes it is asked
    anew. A run that is killed loses a batch at most.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS votes (source TEXT, article TEXT, key TEXT, votes TEXT,"
                " PRIMARY KEY (source, article)) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as e:
            self._db.close()
            raise SourceError(f"{path}: {e}. Delete the file: all sources vote again.") from None

    def close(self) -> None:
        """Close the file; what was saved is kept."""
        self._db.close()

    def ask(
        self,
        source: Labeller,
        articles: Sequence[Article],
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Let a source vote on the articles that it has not seen as they are; return how many."""
        stamp = source.stamp
        known = dict(
            self._db.execute("SELECT article, key FROM votes WHERE source = ?", (source.name,))
        )
        new = [a for a in articles if known.get(a.id) != _key(stamp, a)]
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            rows = [
                (source.name, a.id, _key(stamp, a), _dump(votes))
                for a, votes in zip(batch, source.vote(batch), strict=True)
            ]
            self._db.execute("BEGIN")
            self._db.executemany("REPLACE INTO votes VALUES (?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")
            report(start + len(batch), len(new))
        return len(new)

    def votes(self, source: str) -> dict[str, list[Vote]]:
        """Return a source's votes by article id."""
        rows = self._db.execute("SELECT article, votes FROM votes WHERE source = ?", (source,))
        return {name: list(_load(text)) for name, text in rows}


def _key(stamp: str, article: Article) -> str:
    text = hashlib.sha256(f"{article.title}\0{article.text}".encode("utf-8", "surrogatepass"))
    return f"{stamp}-{text.hexdigest()[:16]}"


def _dump(votes: Sequence[Vote]) -> str:
    return json.dumps([[v.task, v.label, v.confidence, v.by] for v in votes], ensure_ascii=False)


def _load(text: str) -> Iterator[Vote]:
    for task, label, confidence, by in json.loads(text):
        yield Vote(task, label, confidence, tuple(by))
