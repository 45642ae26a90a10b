"""Stage "language": keep articles in the languages that a source asks for (py3langid, offline)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from presseco.document import Document, Unfit

#: Characters looked at first: on 300, all 2,080 articles at hand are told French, all but two with
#: more than 0.99. Only a doubtful text is read further; reading all of each would cost four times.
_FIRST, _MORE = 300, 4000
_SURE = 0.99
#: Candidates: what a French press folder may hold. All 97 languages cost twice the time.
_CANDIDATES = (
    *("fr", "en", "de", "es", "it", "nl", "pt", "ca", "eu", "br", "oc", "wa", "lb", "ro", "pl"),
    *("cs", "sk", "hu", "hr", "sv", "da", "no", "fi", "el", "tr", "ru", "uk", "ar", "he", "fa"),
    *("zh", "ja", "ko", "vi", "id", "sw", "mg", "ht", "la", "eo"),
)


def keep_language(doc: Document, languages: Sequence[str]) -> Document:
    """Return the document if its language is one of `languages`, else raise `Unfit` naming it.

    A text that is marked as out of domain may be in any: that may be what makes it so.
    """
    if doc.fields.get("out_of_domain"):
        return doc
    found, share = identify(doc.text)
    if found not in languages:
        raise Unfit("language", f"{found} ({share:.2f}); kept: {', '.join(languages)}")
    return doc


def identify(text: str) -> tuple[str, float]:
    """Return the likeliest language as ISO 639-1 and its probability among the candidates."""
    # The headline may be in capitals or a foreign name: begin after it where there is enough text.
    _, _, body = text.partition("\n")
    if len(body) < _FIRST:
        body = text
    code, share = _identifier().classify(body[:_FIRST])
    if share < _SURE and len(body) > _FIRST:
        code, share = _identifier().classify(body[:_MORE])
    return str(code), float(share)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([c for c in _CANDIDATES if c in identifier.labels])
    return identifier
