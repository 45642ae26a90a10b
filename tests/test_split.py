"""The split: whole writers, companies and stories on one side, whatever the articles are."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from presseco.article import Article
from presseco.config import CorpusConfig, read_config
from presseco.errors import ConfigError
from presseco.split import assign, company_key, story_groups

BASE = read_config(ROOT / "configs" / "experiment" / "baseline.yaml").corpus


def settings_with(validation=(), test=(), split_by="hash") -> CorpusConfig:
    return BASE.model_copy(
        update={
            "validation_writers": list(validation),
            "test_writers": list(test),
            "split_by": split_by,
        }
    )


def article(number: int, writer="A", company="", story="", date="") -> Article:
    text = f"texte {number} " * 3
    return Article(
        f"x{number:03}", text, {}, writer=writer, company=company, story=story, date=date
    )


def split(articles, config):
    return assign(articles, story_groups(articles, None), config)


ARTICLES = st.lists(
    st.tuples(
        st.sampled_from("ABCD"),
        st.sampled_from(["", "Alstom", "alstom", "EDF", "É.D.F.", "Nexia", "Voltéa"]),
        st.sampled_from(["", "s1", "s2", "s3"]),
        st.sampled_from(["", "2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]),
    ),
    min_size=4,
    max_size=25,
).map(
    lambda rows: [
        article(i, w, c, s, d)
        for i, (w, c, s, d) in enumerate([("A", "", "", ""), ("B", "", "", ""), *rows])
    ]
)


def crossings(articles, splits, column) -> list[str]:
    """Return the values of a column that stand in more than one split."""
    where: dict[str, set] = {}
    for a, s in zip(articles, splits, strict=True):
        value = getattr(a, column)
        if value and s:
            where.setdefault(company_key(value), set()).add(s)
    return [v for v, found in where.items() if len(found) > 1]


@settings(max_examples=200, deadline=None)
@given(ARTICLES)
def test_writers_companies_and_stories_never_cross(articles):
    splits, reasons = split(articles, settings_with("A", "B"))
    assert all(not crossings(articles, splits, c) for c in ("writer", "company", "story"))
    left_out = {a.id for a, s in zip(articles, splits, strict=True) if s is None}
    assert left_out == set(reasons)


@settings(max_examples=200, deadline=None)
@given(ARTICLES)
def test_hashed_split_loses_nothing_and_crosses_nothing(articles):
    splits, reasons = split(articles, settings_with())
    assert not reasons and None not in splits
    assert all(not crossings(articles, splits, c) for c in ("company", "story"))


def test_test_writers_lose_nothing():
    articles = [article(i, "ABC"[i % 3], company="Alstom") for i in range(9)]
    splits, reasons = split(articles, settings_with("A", "B"))
    assert splits == [None, "test", None] * 3
    assert reasons["x000"] == "validation article shares its company Alstom with x007 of test"


def test_hashed_split_keeps_its_place_when_articles_come():
    first = [article(i) for i in range(300)]
    before, _ = split(first, settings_with())
    after, _ = split([*first, *(article(i) for i in range(300, 400))], settings_with())
    assert after[:300] == before


def test_hashed_split_has_about_the_shares_it_promises():
    splits, _ = split([article(i) for i in range(2000)], settings_with())
    assert splits.count("test") / 2000 == pytest.approx(0.18, abs=0.03)
    assert splits.count("validation") / 2000 == pytest.approx(0.12, abs=0.03)


def test_split_by_time_puts_the_newest_stories_last():
    articles = [article(i, date=f"2024-{1 + i // 28:02}-{1 + i % 28:02}") for i in range(200)]
    splits, _ = split(articles, settings_with(split_by="time"))
    order = {"train": 0, "validation": 1, "test": 2}
    assert [order[s] for s in splits] == sorted(order[s] for s in splits)
    assert splits.count("test") == pytest.approx(36, abs=2)


def test_late_echo_of_an_old_story_stays_with_it():
    articles = [article(i, date=f"2024-01-{1 + i:02}") for i in range(28)]
    articles.append(article(99, story="s", date="2023-12-01"))
    articles.append(article(100, story="s", date="2024-06-01"))
    splits, _ = split(articles, settings_with(split_by="time"))
    assert splits[-2:] == ["train", "train"]


def test_unknown_held_out_writer_is_named():
    with pytest.raises(ConfigError, match=r"held-out writers \['Z'\] wrote no article"):
        split([article(0)], settings_with("Z", "A"))


def test_writer_on_both_sides_is_refused():
    with pytest.raises(ConfigError, match=r"\['A'\] are in validation_writers and test_writers"):
        split([article(0)], settings_with("A", "A"))


def test_time_without_dates_is_refused():
    with pytest.raises(ConfigError, match=r"0 different dates.*Use split_by: hash"):
        split([article(0), article(1)], settings_with(split_by="time"))


def test_company_names_are_compared_without_case_accents_and_marks():
    assert company_key("Société Générale") == company_key("SOCIETE-GENERALE")
    assert all(company_key(a) == "edf" for a in ("EDF", "É.D.F.", "e d f"))


def test_near_duplicates_and_named_stories_are_one_story(rows):
    a, b = rows[0]["text"], rows[1]["text"]
    articles = [
        Article("1", a, {}),
        Article("2", b, {}, story="s"),
        Article("3", a + " Fin.", {}),
        Article("4", rows[2]["text"], {}, story="s"),
    ]
    assert story_groups(articles, 0.4) == ["1", "2", "1", "2"]
    assert story_groups(articles, None) == ["1", "2", "3", "2"]


def test_split_does_not_depend_on_names_of_writers_only():
    articles = [article(i, w) for i, (w, _) in enumerate(product("ABCDEF", range(50)))]
    splits, _ = split(articles, settings_with())
    for writer in "ABCDEF":
        assert {s for a, s in zip(articles, splits, strict=True) if a.writer == writer} == {
            "train",
            "validation",
            "test",
        }
