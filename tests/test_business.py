"""The lexicon of business terms: measured on our articles and on texts that are not business."""

from __future__ import annotations

import importlib.util

import pytest

from conftest import ROOT
from presseco.business import keep_business, precision_recall, read_lexicon
from presseco.document import Document, Unfit
from presseco.errors import ConfigError

_SPEC = importlib.util.spec_from_file_location(
    "business_report", ROOT / "scripts" / "business_report.py"
)
assert _SPEC and _SPEC.loader
business_report = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(business_report)
LEXICON = read_lexicon(ROOT / "configs" / "business.yaml")
BUSINESS, OTHER = business_report.texts()


def other(part: str) -> list[str]:
    return OTHER[part]


def test_precision_and_recall_on_texts_it_was_not_tuned_on():
    precision, recall = precision_recall(LEXICON, BUSINESS["held"], OTHER["held"])
    assert recall >= 0.96
    assert precision >= 0.82


def test_a_verdict_names_the_terms_that_made_it():
    verdict = LEXICON.judge("Le chiffre d’affaires du groupe a bondi, les actionnaires saluent.")
    assert verdict.score > LEXICON.threshold
    assert verdict.terms[:2] == ["chiffre d affaires", "actionnair"]


def test_what_is_not_business_goes_aside_with_score_and_terms():
    text = other("held")[0]
    with pytest.raises(Unfit, match=r"not_business: score -.* under 0.5; terms: mi-temps, tournoi"):
        keep_business(Document("a", text), LEXICON)


@pytest.mark.parametrize("fields", [{"labels": {"sector": "energie"}}, {"out_of_domain": True}])
def test_a_text_that_somebody_labelled_is_taken_at_their_word(fields):
    doc = Document("a", other("held")[0], fields=fields)
    assert keep_business(doc, LEXICON) is doc


def test_capitals_accents_and_apostrophes_do_not_matter():
    plain = LEXICON.judge("benefice net et chiffre d'affaires").found
    assert LEXICON.judge("BÉNÉFICE NET ET CHIFFRE D’AFFAIRES").found == plain
    assert len(plain) == 2


def test_a_phrase_is_matched_as_whole_words():
    assert " fusion " not in LEXICON.judge("une fusion nucléaire").found
    assert not LEXICON.judge("malfaçon du capharnaüm").found
    assert " taux directeur" in LEXICON.judge("les taux directeurs").found


def test_a_long_text_gains_nothing_by_its_length():
    text = other("held")[0]
    assert LEXICON.judge(text + "\n" + text * 20).score <= max(LEXICON.judge(text).score, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("threshold: 1\nterms: {2: [Bénéfice]}", "lower case without accents: Bénéfice"),
        ("terms: {2: [bourse]}", "not a lexicon"),
        ("threshold: 1\nterms: {fort: [bourse]}", "not a lexicon"),
        ("- bourse", "not a lexicon"),
    ],
)
def test_a_lexicon_with_a_mistake_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_lexicon(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_lexicon(tmp_path / "none.yaml")
