"""The stages that judge one article: extraction, encoding, form, language."""

from __future__ import annotations

import json
from datetime import date

import pytest

from conftest import ROOT
from presseco.document import Document, Piece, Unfit
from presseco.extract import extract
from presseco.language import identify, keep_language
from presseco.normalise import normalise
from presseco.repair import decode, repair, restore
from presseco.source import Keep
from presseco.taxonomy import read_taxonomy
from presses import texts

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
FRENCH = "Le bénéfice de la société a reculé de 12 % à cause de l’été, « déçu » son président."


def row(**fields):
    return Piece("a.csv", 2, 1, "row", fields=fields)


def html(body: str, head: str = "") -> Piece:
    page = f"<html><head>{head}</head><body>{body}</body></html>"
    return Piece("a.html", 1, 1, "html", page.encode())


def reason(piece: Piece) -> str:
    with pytest.raises(Unfit) as caught:
        extract(piece, {}, TAXONOMY)
    return caught.value.reason


# --- extraction


def test_a_row_gives_text_labels_and_what_is_said_about_it():
    piece = row(
        text="Texte", title="Titre", date="31/12/2025", company="Voltaq", sector="energie", x=1
    )
    doc = extract(piece, {}, TAXONOMY)
    assert (doc.text, doc.title, doc.where) == ("Texte", "Titre", "a.csv:2")
    assert doc.fields == {
        "date": "2025-12-31",
        "company": "Voltaq",
        "labels": {"sector": "energie"},
    }
    assert doc.labelled


def test_columns_may_have_other_names_and_types():
    piece = row(body="Texte", head=float("nan"), jour=date(2025, 1, 2), id=17)
    doc = extract(piece, {"text": "body", "title": "head", "date": "jour"}, TAXONOMY)
    assert (doc.text, doc.title) == ("Texte", "")
    assert doc.fields == {"id": "17", "date": "2025-01-02"}
    assert not doc.labelled


def test_a_text_outside_the_domain_is_taken_at_its_word():
    for fields in ({"out_of_domain": True}, {"sector": "hors_sujet"}):
        doc = extract(row(text="Match nul", **fields), {}, TAXONOMY)
        assert doc.fields == {"out_of_domain": True}
        assert doc.labelled


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (row(titre="sans texte"), "no_text"),
        (row(text="  "), "no_text"),
        (row(text="Texte", sector="banque"), "unknown_label"),
        (Piece("a.jsonl", 1, 1, "json", b"{broken"), "broken_json"),
        (Piece("a.jsonl", 1, 1, "json", b"[1, 2]"), "broken_json"),
        (Piece("a.jsonl", 1, 1, "json", b"[" * 100_000), "broken_json"),
        (Piece("a.txt", 1, 1, "text", b"\x89PNG\r\n\x1a\n\0\0\0"), "binary"),
        (Piece("a.txt", 1, 1, "text", bytes(range(1, 32)) * 9), "binary"),
        (html("<ul>" + "<li><a href='/'>Bourse et marchés</a></li>" * 60 + "</ul>"), "no_article"),
        (Piece("a.txt", 1, 1, problem=("empty_file", "0 bytes")), "empty_file"),
    ],
)
def test_what_is_no_article_has_its_reason(piece, expected):
    assert reason(piece) == expected


def test_a_missing_text_column_names_the_columns_that_are_there():
    with pytest.raises(Unfit, match=r"no column 'text'; found: titre, corps"):
        extract(row(titre="a", corps="b"), {}, TAXONOMY)


def test_a_web_page_gives_its_article_without_menus():
    article = texts(1)[0]
    menu = "<nav><ul>" + "<li><a href='/x'>Rubrique Sport</a></li>" * 30 + "</ul></nav>"
    footer = "<footer>Mentions légales, abonnez-vous, cookies</footer>"
    paragraphs = "".join(f"<p>{p}</p>" for p in article.split("\n")[1:])
    body = f"{menu}<article><h1>Le titre</h1>{paragraphs}</article>{footer}"
    meta = "<meta property='article:published_time' content='2025-03-04T08:00:00'>"
    doc = extract(html(body, f"<title>Le titre</title>{meta}"), {}, TAXONOMY)
    assert article.split("\n")[1][:80] in doc.text
    assert "Rubrique" not in doc.text and "cookies" not in doc.text
    assert doc.title == "Le titre"
    assert doc.fields["date"] == "2025-03-04"


@pytest.mark.parametrize("declared", ["utf-8", "iso-8859-1", "windows-1252", "martian"])
def test_a_web_page_is_decoded_even_where_it_lies_about_its_encoding(declared):
    paragraphs = "".join(f"<p>{p}</p>" for p in texts(1)[0].split("\n"))
    page = f"<html><head><meta charset='{declared}'></head><body><article>{paragraphs}"
    body = page.replace("\u202f", " ").encode("cp1252", "replace")
    doc = extract(Piece("a.html", 1, 1, "html", body), {}, TAXONOMY)
    assert any(c in doc.text for c in "éèà")
    assert "Ã" not in doc.text and "\ufffd" not in doc.text


def test_what_a_feed_says_wins_over_the_page():
    paragraphs = "".join(f"<p>{p}</p>" for p in texts(1)[0].split("\n"))
    page = f"<html><head><title>x - Journal</title></head><body><article>{paragraphs}".encode()
    said = {"title": "Le vrai titre", "date": "2025-05-06", "url": "http://x/1", "writer": ""}
    doc = extract(Piece("http://x/1", 1, 1, "html", page, said), {}, TAXONOMY)
    assert (doc.title, doc.fields["date"], doc.where) == (
        "Le vrai titre",
        "2025-05-06",
        "http://x/1",
    )


def test_markdown_loses_its_signs_and_keeps_its_words():
    body = (
        "---\ntitle: Titre\nauthor: Zoé\n---\n# Chapeau\n\nLe **groupe** [Voltaq](http://v) *croît*"
        " de `5` %.\n\n- un\n- deux\n\n![photo](a.png)\n"
    )
    doc = extract(Piece("a.md", 1, 1, "markdown", body.encode()), {}, TAXONOMY)
    assert doc.text == "Chapeau\nLe groupe Voltaq croît de 5 %.\nun\ndeux"
    assert (doc.title, doc.fields) == ("Titre", {"writer": "Zoé"})


def test_tags_in_a_text_column_are_taken_out():
    doc = extract(row(text="<p>Un &amp; deux</p><p>Trois<br/>quatre</p>"), {}, TAXONOMY)
    assert [x for x in doc.text.split("\n") if x] == ["Un & deux", "Trois", "quatre"]


# --- encoding


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "mac_roman", "cp850"]
)
def test_french_is_decoded_from_the_encodings_it_was_ever_kept_in(encoding):
    wrong = 0
    for text in texts(60):
        body = text.encode(encoding, "ignore")
        wrong += decode(body) != text.encode(encoding, "ignore").decode(encoding)
    assert wrong == 0


def test_two_encodings_in_one_file_are_both_read():
    body = f"{FRENCH}\n".encode() * 5 + "café crème".encode("cp1252")
    assert decode(body) == f"{FRENCH}\n" * 5 + "café crème"


def test_mojibake_is_undone_and_clean_french_is_not_touched():
    for text in texts(60):
        broken = text.encode().decode("cp1252", "replace")
        if "\ufffd" not in broken:
            assert restore(broken) == text
        assert restore(text) == text
    assert restore("sociÃ©tÃ© gÃ©nÃ©rale") == "société générale"
    assert restore("Âgé, À l’œuvre, ÂNE") == "Âgé, À l’œuvre, ÂNE"


def test_bytes_carried_through_a_table_are_decoded():
    carried = FRENCH.encode("cp1252").decode("utf-8", "surrogateescape")
    doc = repair(Document("a.csv:2", carried, carried, {"company": "Soci\udce9t\udce9"}))
    assert (doc.text, doc.title, doc.fields["company"]) == (FRENCH, FRENCH, "Société")


def test_lost_characters_go_to_quarantine_but_one_does_not():
    with pytest.raises(Unfit, match=r"encoding: .* characters are lost for good"):
        repair(Document("a", FRENCH.replace("é", "\ufffd")))
    assert repair(Document("a", FRENCH * 9 + "\ufffd")).text.endswith("\ufffd")


def test_half_an_emoji_from_json_does_not_stop_the_stage():
    assert repair(Document("a", FRENCH * 9 + json.loads('"\\ud83d"'))).text.endswith("\ufffd")


# --- form


def test_the_headline_stands_first_once():
    keep = Keep(min_words=1)
    assert normalise(Document("a", "Corps.", "Titre"), keep).text == "Titre\nCorps."
    assert normalise(Document("a", "TITRE\nCorps.", "Titre"), keep).text == "TITRE\nCorps."


def test_spaces_lines_entities_and_control_characters_are_put_in_order():
    messy = "Un&nbsp;an \x07: &eacute;te\u0301\u200b \r\n\r\n\r\n  12\u00a0%  \tde  plus\u00ad "
    assert (
        normalise(Document("a", messy), Keep(min_words=1)).text
        == "Un\u00a0an : été\n12\u00a0% de plus"
    )


def test_line_and_paragraph_separators_are_line_breaks():
    text = "Un titre\u2028Une phrase.\u2029Une autre."
    found = normalise(Document("a", text), Keep(min_words=1)).text
    assert found == "Un titre\nUne phrase.\nUne autre."


def test_typography_stays_as_written():
    text = '« L’été », dit-il : 1\u202f000\u00a0€ – c\'est "peu"…'
    assert normalise(Document("a", text), Keep(min_words=1)).text == text


@pytest.mark.parametrize(
    ("text", "expected"), [("mot " * 14, "too_short"), ("mot " * 26, "too_long")]
)
def test_an_article_has_a_length(text, expected):
    with pytest.raises(Unfit) as caught:
        normalise(Document("a", text), Keep(min_words=15, max_chars=100))
    assert caught.value.reason == expected


# --- language

OTHERS = {
    "en": "Shares in the company fell by 12 percent on Monday after the group cut its forecast.",
    "de": "Die Aktien des Unternehmens fielen am Montag, nachdem der Konzern die Prognose senkte.",
    "es": "Las acciones de la empresa cayeron el lunes después de que el grupo recortara previsiones.",
    "it": "Le azioni della società sono scese lunedì dopo che il gruppo ha tagliato le previsioni.",
    "nl": "De aandelen van het bedrijf daalden maandag nadat het concern zijn prognose verlaagde.",
}


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages_are_named(language):
    assert identify(OTHERS[language])[0] == language
    with pytest.raises(Unfit, match=f"language: {language} "):
        keep_language(Document("a", OTHERS[language]), ["fr"])
    assert keep_language(Document("a", OTHERS[language]), ["fr", language])


def test_a_text_outside_the_domain_may_be_in_any_language():
    doc = Document("a", OTHERS["en"], fields={"out_of_domain": True})
    assert keep_language(doc, ["fr"]) is doc


def test_our_articles_are_french():
    assert {identify(t)[0] for t in texts(200)} == {"fr"}


def test_an_english_article_under_a_french_headline_is_english():
    assert identify("Le titre est resté en français\n" + OTHERS["en"] * 8)[0] == "en"
