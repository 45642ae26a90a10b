"""The chain of stages that an article passes alone, from a raw piece to a stored result."""

from __future__ import annotations

import json
from collections.abc import Sequence

from presseco.article import Article
from presseco.business import Lexicon, keep_business
from presseco.collection import Result
from presseco.document import Document, Piece, Unfit
from presseco.duplicates import fingerprint
from presseco.extract import extract
from presseco.language import keep_language
from presseco.normalise import normalise
from presseco.repair import repair
from presseco.source import FeedInput, Source
from presseco.taxonomy import Taxonomy

#: In order. The last one sees all articles at once and runs in `collect`.
STAGES = ("read", "repair", "normalise", "language", "business", "duplicates")


class Chain:
    """All stages that need one article only; the same object serves every worker process."""

    def __init__(self, source: Source, taxonomy: Taxonomy, lexicon: Lexicon | None) -> None:
        self._source, self._taxonomy, self._lexicon = source, taxonomy, lexicon
        self._columns = {} if isinstance(source.input, FeedInput) else source.input.columns

    def run(self, pieces: Sequence[Piece]) -> list[Result]:
        """Return one result a piece, in order; pieces that only close a file give none."""
        return [self._one(p) for p in pieces if not p.final]

    def _one(self, piece: Piece) -> Result:
        at = iter(STAGES)
        key = (piece.file, piece.position, piece.where)
        stage = next(at)
        try:
            doc = extract(piece, self._columns, self._taxonomy)
            for step in (self._repair, self._normalise, self._language, self._business):
                stage = next(at)
                doc = step(doc)
            return self._finish(key, doc)
        except Unfit as e:
            return Result(*key, stage, e.reason, e.detail)
        except Exception as e:
            # One page that breaks a parser must not stop a hundred thousand others; it is counted
            # and shown as `crashed`, so that the cause can be found and mended.
            return Result(*key, stage, "crashed", f"{type(e).__name__}: {e}"[:300])

    def _repair(self, doc: Document) -> Document:
        return repair(doc)

    def _normalise(self, doc: Document) -> Document:
        return normalise(doc, self._source.keep)

    def _language(self, doc: Document) -> Document:
        return keep_language(doc, self._source.keep.languages)

    def _business(self, doc: Document) -> Document:
        return keep_business(doc, self._lexicon) if self._lexicon else doc

    def _finish(self, key: tuple[str, int, str], doc: Document) -> Result:
        digest, signature = fingerprint(doc.text)
        article = self._article(doc, digest)
        line = article.to_json()
        if url := doc.fields.get("url"):  # for the ledger; articles do not have one
            line = f'{line[:-1]}, "url": {json.dumps(url, ensure_ascii=False)}}}'
        return Result(
            *key,
            STAGES[-1],
            article=line,
            id=article.id,
            story=article.story,
            digest=digest,
            signature=signature,
        )

    def _article(self, doc: Document, digest: int) -> Article:
        fields = doc.fields
        labels = fields.get("labels", {})
        return Article(
            # Without an id of its own an article is named by its words: the name stays the same
            # when rows are added above it, and so do labels given to it.
            id=f"{self._source.name}-{fields.get('id') or format(digest, '016x')}",
            text=doc.text,
            labels={t: labels.get(t) for t in self._taxonomy.names},
            title=doc.title,
            writer=fields.get("writer", ""),
            style=fields.get("style", ""),
            company=fields.get("company", ""),
            story=fields.get("story", ""),
            date=fields.get("date", ""),
            companies_fictional=tuple(fields.get("companies_fictional", ())),
            rights=fields.get("rights", ""),  # its own; the source's are given at the end
            out_of_domain=bool(fields.get("out_of_domain")),
            annotations=tuple(fields.get("annotations", ())),
        )
