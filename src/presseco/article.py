"""One article and the JSON Lines files that hold articles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from presseco.errors import ArticleError
from presseco.taxonomy import Taxonomy

#: Value of every task's key, or of the key `out_of_domain`, for a text that is not business news.
OUT_OF_DOMAIN = "hors_sujet"


@dataclass(frozen=True)
class Article:
    """One text with its labels by task (None: not labelled) and where it comes from.

    `text` is the whole article, headline on its first line where there is one. `company` is the main
    subject, empty for an economy or a market. `annotations` keeps every label ever given.
    """

    id: str
    text: str
    labels: dict[str, str | None]
    title: str = ""
    writer: str = ""
    style: str = ""
    company: str = ""
    story: str = ""
    date: str = ""
    companies_fictional: tuple[str, ...] = ()
    rights: str = ""
    out_of_domain: bool = False
    annotations: tuple[dict[str, Any], ...] = field(default=())

    def to_json(self) -> str:
        """Return the article as one JSON line, labels at the top level, empty fields left out."""
        # Not asdict: it copies every annotation, and half of the time of writing was spent there.
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        labels = data.pop("labels")
        row: dict[str, Any] = {"id": self.id, "title": self.title, "text": self.text, **labels}
        row |= {k: v for k, v in data.items() if k not in row and v not in ("", (), [], False)}
        return json.dumps(row, ensure_ascii=False)


def read_articles(path: str | Path, taxonomy: Taxonomy) -> Iterator[Article]:
    """Yield the articles of one JSON Lines file; raise on the first line that breaks the format.

    A label that the taxonomy does not have raises `TaxonomyError`, anything else `ArticleError`;
    both name file and line.
    """
    try:
        with Path(path).open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield parse_article(_decode(line, where), taxonomy, where)
    except OSError as e:
        raise ArticleError(f"{path}: cannot be read: {e.strerror}") from None


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ArticleError(
            f"{where}: not UTF-8 (byte {e.start} of the line). Convert the file to UTF-8."
        ) from None


def parse_article(line: str, taxonomy: Taxonomy, where: str) -> Article:
    """Return the article on a JSON line; `where` (file:line) is named in every error."""
    try:
        row = json.loads(line)
    except ValueError as e:
        raise ArticleError(f"{where}: broken JSON: {e}") from None
    if not isinstance(row, dict):
        raise ArticleError(f"{where}: expected a JSON object, found {type(row).__name__}")
    for key in ("id", "text"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ArticleError(f"{where}: {key!r} is missing or empty; expected a string")
    for key in ("companies_fictional", "annotations"):
        if not isinstance(row.get(key) or [], list):
            raise ArticleError(f"{where}: {key!r} is {row[key]!r}; expected a list")
    if not all(isinstance(a, dict) for a in row.get("annotations") or []):
        raise ArticleError(f"{where}: 'annotations' has something that is no object of labels")
    outside = bool(row.get("out_of_domain")) or row.get(taxonomy.names[0]) == OUT_OF_DOMAIN
    labels: dict[str, str | None] = {}
    for task in taxonomy.names:
        value = None if outside else row.get(task)
        labels[task] = taxonomy.check(task, str(value), where) if value is not None else None
    known = {
        key: str(row[key])
        for key in ("title", "writer", "style", "company", "story", "date", "rights")
        if row.get(key) is not None
    }
    return Article(
        id=row["id"],
        text=row["text"],
        labels=labels,
        companies_fictional=tuple(map(str, row.get("companies_fictional") or ())),
        out_of_domain=outside,
        annotations=tuple(row.get("annotations") or ()),
        **known,
    )
