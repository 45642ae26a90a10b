"""The label model: who is right more often counts more, and crowd-kit says the same."""

from __future__ import annotations

import numpy as np
import pytest

from presseco.consensus import agree_on

Votes = list[dict[str, tuple[int, float]]]


def drawn(n: int, right: dict[str, float], classes: int, seed: int) -> tuple[np.ndarray, Votes]:
    """Return true labels, and votes of workers that are right with a given share."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    votes: Votes = [{} for _ in range(n)]
    for name, share in right.items():
        for i in range(n):
            wrong = (truth[i] + rng.integers(1, classes)) % classes
            votes[i][name] = (int(truth[i] if rng.random() < share else wrong), 1.0)
    return truth, votes


def test_a_good_source_outvotes_two_bad_ones() -> None:
    right = {"good": 0.95, "poor": 0.5, "worse": 0.45, "fair": 0.75}
    truth, votes = drawn(600, right, 4, seed=1)
    found = agree_on(votes, 4)
    guess = found.posterior.argmax(axis=1)
    majority = [np.bincount([x for x, _ in v.values()], minlength=4).argmax() for v in votes]
    ours, theirs = (guess == truth).mean(), (np.array(majority) == truth).mean()
    assert ours > theirs + 0.05 and ours > 0.88
    order = [
        name.split()[0] for name in sorted(found.reliability, key=found.reliability.__getitem__)
    ]
    assert order == sorted(right, key=right.__getitem__)


def test_confidence_means_what_it_says() -> None:
    truth, votes = drawn(2000, {"a": 0.8, "b": 0.7, "c": 0.6}, 3, seed=2)
    found = agree_on(votes, 3)
    top, guess = found.posterior.max(axis=1), found.posterior.argmax(axis=1)
    assert abs(top.mean() - (guess == truth).mean()) < 0.03
    sure = top > 0.9
    assert (guess == truth)[sure].mean() > 0.9


def test_without_votes_there_is_no_label() -> None:
    found = agree_on([{"a": (1, 1.0)}, {}], 3)
    assert found.label(1, 0.0) is None
    assert found.label(0, 0.0) is not None and found.label(0, 0.0)[0] == 1  # type: ignore[index]
    assert found.label(0, 0.999) is None
    assert agree_on([{}], 3).label(0, 0.0) is None


def test_a_source_that_is_sure_counts_as_another_worker() -> None:
    rng = np.random.default_rng(3)
    votes: Votes = []
    truth = rng.integers(0, 2, 500)
    for t in truth:
        sure = rng.random() < 0.5
        ok = rng.random() < (0.95 if sure else 0.55)
        said = int(t if ok else 1 - t)
        other = int(t if rng.random() < 0.8 else 1 - t)
        votes.append({"a": (said, 0.9 if sure else 0.2), "b": (other, 1.0)})
    found = agree_on(votes, 2)
    assert set(found.reliability) == {"a 0.80+", "a 0.00+", "b 0.80+"}
    assert found.reliability["a 0.80+"] > found.reliability["a 0.00+"] + 0.1


def test_a_source_alone_is_believed_as_far_as_it_claims() -> None:
    votes: Votes = [{"a": (i % 3, 0.9 if i % 2 else 0.6)} for i in range(300)]
    found = agree_on(votes, 3)
    sure, guessing = found.posterior[1::2].max(axis=1), found.posterior[::2].max(axis=1)
    assert np.abs(sure - 0.9).max() < 0.06 and np.abs(guessing - 0.6).max() < 0.12


@pytest.mark.services
def test_unsmoothed_it_is_crowdkits_dawid_skene() -> None:
    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    _, votes = drawn(400, {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}, 3, seed=4)
    rows = [(i, s, x) for i, v in enumerate(votes) for s, (x, _) in v.items()]
    table = pd.DataFrame(rows, columns=["task", "worker", "label"])
    theirs = DawidSkene(n_iter=100, tol=1e-9).fit_predict_proba(table).sort_index()[[0, 1, 2]]
    ours = agree_on(votes, 3, weight=0.0).posterior
    assert np.abs(ours - theirs.to_numpy()).max() < 0.02
