"""Articles in JSON Lines: what is read, what is refused and how."""

from __future__ import annotations

import json

import pytest

from conftest import ROOT, write_lines
from presseco.article import OUT_OF_DOMAIN, parse_article, read_articles
from presseco.errors import ArticleError, TaxonomyError
from presseco.taxonomy import read_taxonomy

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
GOOD = {
    "id": "a1",
    "title": "Un titre",
    "text": "Un titre\nUn texte.",
    "sector": "energie",
    "event_type": "incident",
    "sentiment": "negatif",
    "writer": "A",
    "companies_fictional": ["Voltéa"],
}


def parse(**changes):
    return parse_article(json.dumps(GOOD | changes), TAXONOMY, "f.jsonl:4")


def test_labels_and_fields():
    a = parse()
    assert a.labels == {"sector": "energie", "event_type": "incident", "sentiment": "negatif"}
    assert (a.id, a.title, a.writer, a.companies_fictional) == ("a1", "Un titre", "A", ("Voltéa",))


def test_round_trip_through_json():
    for a in (parse(), parse(sector=None), parse(out_of_domain=True, company="EDF", date="2024")):
        assert parse_article(a.to_json(), TAXONOMY, "x") == a


def test_missing_label_is_none_not_wrong():
    row = {k: v for k, v in GOOD.items() if k != "sentiment"}
    assert parse_article(json.dumps(row), TAXONOMY, "x").labels["sentiment"] is None


@pytest.mark.parametrize("mark", [{"out_of_domain": True}, {"sector": OUT_OF_DOMAIN}])
def test_out_of_domain_has_no_labels(mark):
    a = parse(**mark)
    assert a.out_of_domain and set(a.labels.values()) == {None}


@pytest.mark.parametrize("text", ["", "  \n ", None, 3, ["x"]])
def test_article_without_text(text):
    with pytest.raises(ArticleError, match=r"f\.jsonl:4: 'text' is missing or empty"):
        parse(text=text)


def test_article_without_id():
    with pytest.raises(ArticleError, match=r"f\.jsonl:4: 'id' is missing or empty"):
        parse(id=None)


@pytest.mark.parametrize("key", ["annotations", "companies_fictional"])
def test_list_that_is_none(key):
    with pytest.raises(ArticleError, match=rf"f\.jsonl:4: '{key}' is 5; expected a list"):
        parse(**{key: 5})
    with pytest.raises(ArticleError, match="no object of labels"):
        parse(annotations=["finance"])


def test_line_that_is_no_object():
    with pytest.raises(ArticleError, match=r"f\.jsonl:4: expected a JSON object, found list"):
        parse_article("[1]", TAXONOMY, "f.jsonl:4")


def test_broken_line_is_named_by_file_and_line(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [GOOD, "", '{"id": "a2", "text": "coup'])
    with pytest.raises(ArticleError, match=rf"{path}:3: broken JSON: "):
        list(read_articles(path, TAXONOMY))


def test_wrong_label_is_named_by_file_line_and_nearest(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [GOOD, GOOD | {"sector": "energies"}])
    with pytest.raises(TaxonomyError, match=rf"{path}:2: sector is 'energies'.*mean 'energie'"):
        list(read_articles(path, TAXONOMY))


def test_label_of_another_type_is_refused():
    with pytest.raises(TaxonomyError, match="sector is '3'"):
        parse(sector=3)


def test_file_that_is_no_utf8(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(GOOD), json.dumps(GOOD, ensure_ascii=False)]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(ArticleError, match=r"a\.jsonl:2: not UTF-8 \(byte \d+ of the line\)"):
        list(read_articles(path, TAXONOMY))


def test_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert [a.id for a in read_articles(path, TAXONOMY)] == ["a1"]


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(ArticleError, match="cannot be read: No such file"):
        list(read_articles(tmp_path / "none.jsonl", TAXONOMY))
