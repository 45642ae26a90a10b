"""Texts without labels, from any folder of articles: what `adapt` and distillation learn from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from presseco.article import parse_article
from presseco.errors import SourceError
from presseco.read import SUFFIXES, listing, pieces
from presseco.source import Source
from presseco.stages import Chain
from presseco.taxonomy import Taxonomy
from presseco.text import prepare


def read_texts(
    folder: Path, taxonomy: Taxonomy, on_text: Callable[[int], None] = lambda done: None
) -> tuple[list[str], Counter[str]]:
    """Return the French articles of a folder, prepared as for the models, and what was left out.

    Reads what `make data SOURCE=…` reads (.txt .md .html .json .jsonl .csv .tsv .parquet), in order,
    with the same repair, language and length stages, business or not. The second value counts the
    reasons: `language`, `too_short`, `duplicate` (the very same words) and so on. Raises
    `SourceError` when nothing is left.
    """
    source = Source.model_validate(
        {
            "name": "texts",
            "rights": {"licence": "not asked", "redistribute_text": False},
            "input": {"kind": "folder", "path": str(folder)},
            "keep": {"business": None},
        }
    )
    chain = Chain(source, taxonomy, None)
    texts: list[str] = []
    left_out: Counter[str] = Counter()
    seen: set[int] = set()
    for entry in listing(folder):
        for piece in pieces(entry):
            for result in chain.run([piece]):
                if not result.article:
                    left_out[result.reason] += 1
                elif result.digest in seen:
                    left_out["duplicate"] += 1
                else:
                    seen.add(result.digest)
                    article = parse_article(result.article, taxonomy, entry.name)
                    texts.append(prepare(article.text, article.title or None))
                    on_text(len(texts))
    if not texts:
        reasons = ", ".join(f"{n} {r}" for r, n in left_out.most_common()) or "no file"
        raise SourceError(
            f"{folder}: no French article found ({reasons}); expected files {' '.join(SUFFIXES)}"
        )
    return texts, left_out


def texts_digest(folder: Path) -> str:
    """Return the digest of a folder's files, names and contents: it may hold others tomorrow."""
    whole = hashlib.sha256()
    for entry in listing(folder):
        whole.update(f"{entry.name}\0{entry.size}\0".encode())
        if entry.path.is_file():
            with entry.path.open("rb") as f:
                whole.update(hashlib.file_digest(f, "sha256").digest())
    return whole.hexdigest()[:16]
