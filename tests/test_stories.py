"""Near-duplicates: the fast search finds what comparing every pair finds."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presseco.stories import Groups, five_grams, near_pairs

WORDS = [
    "la",
    "banque",
    "centrale",
    "a",
    "relevé",
    "ses",
    "taux",
    "de",
    "un",
    "demi",
    "point",
    "jeudi",
    "à",
    "Francfort",
]
TEXTS = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), max_size=12
)


def jaccard(a: str, b: str) -> float:
    x, y = five_grams(a), five_grams(b)
    return len(x & y) / len(x | y)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.sampled_from([0.1, 0.4, 1.0]))
def test_near_pairs_are_those_of_every_pair(texts, threshold):
    expected = [
        (i, j, jaccard(texts[i], texts[j]))
        for i, j in combinations(range(len(texts)), 2)
        if jaccard(texts[i], texts[j]) >= threshold
    ]
    assert near_pairs(texts, threshold) == expected


def test_real_articles_do_not_pair_but_their_rewritings_do(rows):
    texts = [r["text"] for r in rows]
    assert near_pairs(texts, 0.4) == []
    changed = " ".join(w for i, w in enumerate(texts[3].split()) if i % 25)
    assert [(i, j) for i, j, _ in near_pairs([*texts, changed], 0.4)] == [(3, len(texts))]


def test_case_and_punctuation_do_not_matter():
    a = "Le CAC 40 chute : la BCE, jeudi, relève ses taux."
    assert five_grams(a) == five_grams("le cac 40 chute la bce jeudi relève ses taux")


def test_short_texts_are_compared_whole():
    assert near_pairs(["Brève du jour", "brève du jour !", "Autre brève"], 0.9) == [(0, 1, 1.0)]


def test_grams_are_the_same_in_every_process():
    # Python salts hash() of strings; a build must not depend on it.
    from zlib import crc32

    assert five_grams("a b c d e") == {crc32(b"a b c d e")}


def test_set_phrases_cost_no_quadratic_time():
    import time

    phrase = "a indiqué le groupe dans un communiqué publié ce jeudi"
    texts = [f"{phrase} article numéro {i} raconte autre chose {i}" for i in range(3000)]
    started = time.process_time()
    assert near_pairs(texts, 0.9) == []
    assert time.process_time() - started < 3


def test_a_dispatch_that_everybody_prints_is_one_story(rows):
    texts = [rows[0]["text"]] * 60 + [r["text"] for r in rows[1:20]]
    groups = Groups(len(texts))
    for i, j, same in near_pairs(texts, 0.4):
        assert same == 1.0
        groups.join(i, j)
    assert [groups.find(i) for i in range(len(texts))] == [0] * 60 + list(range(60, len(texts)))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_groups_are_the_connected_parts(joins):
    groups = Groups(10)
    part = {i: {i} for i in range(10)}
    for i, j in joins:
        groups.join(i, j)
        merged = part[i] | part[j]
        for k in merged:
            part[k] = merged
    assert [groups.find(i) for i in range(10)] == [min(part[i]) for i in range(10)]


@pytest.mark.parametrize("texts", [[], ["seul"]])
def test_nothing_to_pair(texts):
    assert near_pairs(texts, 0.5) == []
