"""Changes that a text may undergo without saying anything else: what behaviour tests are made of."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_MONTHS = ["janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août"]
_MONTHS += ["septembre", "octobre", "novembre", "décembre"]
_BOILERPLATE = (
    "\nTous droits de reproduction et de représentation réservés. Abonnez-vous à notre lettre "
    "d'information pour recevoir chaque matin l'essentiel de l'actualité. Cet article vous a plu ? "
    "Partagez-le avec vos proches, ou réagissez dans l'espace réservé à nos lecteurs."
)
#: Invented names that stand for any company; none says what its owner does.
_NAMES = (
    "Valdorane",
    "Miréol",
    "Tessandier",
    "Korvane",
    "Ostrelle",
    "Brévalon",
    "Lumidia",
    "Sarnex",
)


def _apostrophes(text: str) -> str:
    return text.replace("’", "'") if "’" in text else text.replace("'", "’")


def _spaces(text: str) -> str:
    return re.sub(r"(?<=\d) (?=\d{3}\b)|(?<=\d) (?=[%€$])|(?<=«) | (?=[»:;!?])", "\u00a0", text)


def _capitals(text: str) -> str:
    def bare(match: re.Match[str]) -> str:
        return unicodedata.normalize("NFKD", match.group())[0]

    return re.sub(r"[ÀÂÉÈÊËÎÏÔÙÛÜÇ]", bare, text)


def _shouted(text: str) -> str:
    head, _, rest = text.partition("\n")
    flat = unicodedata.normalize("NFKD", head.upper())
    return "".join(c for c in flat if not unicodedata.combining(c)) + "\n" + rest


def _amounts(text: str) -> str:
    text = re.sub(r"millions? d['’]euros", "M€", text)
    return re.sub(r"milliards? d['’]euros", "Md€", text)


def _dates(text: str) -> str:
    later = dict(zip(_MONTHS, _MONTHS[5:] + _MONTHS[:5], strict=True))
    return re.sub(rf"\b({'|'.join(_MONTHS)})\b", lambda m: later[m.group()], text)


def _numbers(text: str) -> str:
    # The last digit of numbers of two digits and more moves by one: nothing of the story changes.
    return re.sub(r"(?<=[0-9])[0-9](?![0-9])", lambda m: str((int(m.group()) + 1) % 10), text)


def swap_company(text: str, company: str) -> str:
    """Return the text with its company's name replaced by an invented one."""
    name = _NAMES[sum(map(ord, company)) % len(_NAMES)]
    return text.replace(company, name) if company else text


#: Changes of a text that leave what it says as it is, by name.
INVARIANCES: dict[str, Callable[[str], str]] = {
    "apostrophes": _apostrophes,
    "no-break spaces": _spaces,
    "capitals without accents": _capitals,
    "headline in capitals": _shouted,
    "M€ for millions": _amounts,
    "other months": _dates,
    "other last digits": _numbers,
    "lower case": str.lower,
    "boilerplate at the end": lambda text: text + _BOILERPLATE,
}
