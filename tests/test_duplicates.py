"""Exact copies and near-duplicates: against the exact search, and at the edges."""

from __future__ import annotations

import random

import numpy as np
import pytest

from presseco.duplicates import VALUES, cluster, fingerprint
from presseco.stories import Groups, five_grams, near_pairs
from presses import texts


def prints(bodies: list[str]):
    pairs = [fingerprint(t) for t in bodies]
    digests = np.array([d for d, _ in pairs], dtype=np.int64)
    rows = [np.frombuffer(s, dtype=np.uint32) for _, s in pairs]
    return digests, np.array(rows, dtype=np.uint32).reshape(len(bodies), VALUES)


def clusters(bodies: list[str], threshold: float = 0.4, given=()):
    return cluster(*prints(bodies), threshold, given)


def rewritten(text: str, share: float, seed: int) -> str:
    chance = random.Random(seed)
    return " ".join(
        f"mot{chance.randrange(999)}" if chance.random() < share else w for w in text.split()
    )


def exact_groups(bodies: list[str], threshold: float) -> list[int]:
    groups = Groups(len(bodies))
    for i, j, _ in near_pairs(bodies, threshold):
        groups.join(i, j)
    return [groups.find(i) for i in range(len(bodies))]


def test_copies_are_found_whatever_their_case_punctuation_and_spacing():
    one, two = texts(2)
    found = clusters([one, two, one.upper().replace(".", " !\n"), two + " "])
    assert found.copy_of.tolist() == [0, 1, 0, 1]
    assert found.story.tolist() == [0, 1, 0, 1]


def test_articles_of_ours_are_all_their_own_story():
    found = clusters(texts(300))
    assert found.copy_of.tolist() == list(range(300))
    assert found.story.tolist() == list(range(300))


def test_light_rewrites_join_their_original_and_heavy_ones_do_not():
    base = texts(100)
    found = clusters([*base, *(rewritten(t, 0.04, i) for i, t in enumerate(base))])
    assert (found.story[100:] == np.arange(100)).mean() >= 0.99
    found = clusters([*base, *(rewritten(t, 0.4, i) for i, t in enumerate(base))])
    assert (found.story[100:] == np.arange(100, 200)).all()


def test_clusters_agree_with_the_exact_search_away_from_the_threshold():
    """Between .35 and .5 the estimate may differ; outside that it has to be the exact answer."""
    base = texts(60)
    mixed = [*base, *(rewritten(t, s, i) for i, t in enumerate(base) for s in (0.03, 0.06, 0.3))]
    ours = clusters(mixed, 0.4).story.tolist()
    strict, loose = exact_groups(mixed, 0.5), exact_groups(mixed, 0.35)
    for i in range(len(mixed)):
        assert not (strict[i] != i and ours[i] != ours[strict[i]]), (
            "a clear near-duplicate was missed"
        )
        assert loose[i] == loose[ours[i]], "two stories were joined"


def test_the_estimate_is_as_near_as_its_comment_says():
    base = texts(80)
    other = [rewritten(t, 0.08, i) for i, t in enumerate(base)]
    _, left = prints(base)
    _, right = prints(other)
    exact = []
    for a, b in zip(base, other, strict=True):
        x, y = five_grams(a), five_grams(b)
        exact.append(len(x & y) / len(x | y))
    errors = (left == right).mean(axis=1) - np.array(exact)
    assert errors.std() <= 0.05
    assert abs(errors.mean()) <= 0.02


def test_a_given_story_joins_texts_that_share_nothing():
    found = clusters(texts(4), given=[(0, 3)])
    assert found.story.tolist() == [0, 1, 2, 0]
    assert found.copy_of.tolist() == [0, 1, 2, 3]


def test_a_thousand_copies_and_a_chain_of_rewrites_are_one_story_each():
    one, two = texts(2)
    chain = [two]
    for i in range(20):
        chain.append(rewritten(chain[-1], 0.02, i))
    found = clusters([one] * 1000 + chain)
    assert set(found.story[:1000].tolist()) == {0}
    assert set(found.story[1000:].tolist()) == {1000}


@pytest.mark.parametrize("bodies", [[], ["Bref."], ["", ""]])
def test_none_one_and_empty(bodies):
    found = clusters(bodies)
    assert found.story.tolist() == [0] * len(bodies)


def test_fingerprints_do_not_depend_on_the_process():
    """They are stored: a later run must find them equal."""
    assert (
        fingerprint("Le groupe a publié son chiffre d'affaires annuel.")[0] == 2718630395877792261
    )
    signature = fingerprint("Le groupe a publié son chiffre d'affaires annuel.")[1]
    assert np.frombuffer(signature, dtype=np.uint32)[:3].tolist() == [
        3442863833,
        3262538261,
        3222649501,
    ]
