"""Stage "duplicates": exact copies go aside, near-duplicates become one story (MinHash, rensa).

A fingerprint is taken of each article as it streams by; the clustering then reads fingerprints
only: 0.5 KB an article, whatever its length, and no text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from presseco.stories import Groups

#: Two articles are compared when all 3 values of one of 42 bands agree. At the default Jaccard of
#: 0.4 that finds 1 - (1 - 0.4**3)**42 = 94 % of the pairs, at 0.5 99.6 %, at 0.05 0.5 %. A story of
#: several copies offers many pairs, and one found is enough.
_ROWS, _BANDS = 3, 42
VALUES = _ROWS * _BANDS
_SEED = 1
_WORD = re.compile(r"\w+")

Signatures = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Clusters:
    """For each article, in the order given: the first of its story and of its exact copies.

    Both are positions; an article without copies is its own first.
    """

    story: npt.NDArray[np.int64]
    copy_of: npt.NDArray[np.int64]


def fingerprint(text: str) -> tuple[int, bytes]:
    """Return a 63-bit digest of the words, and the MinHash of the word 5-grams (504 bytes).

    Case, punctuation and spacing do not count. Two different texts share a digest with a chance of
    1e-8 among 300,000 articles.
    """
    import rensa

    words = _WORD.findall(text.casefold())
    digest = hashlib.sha256(" ".join(words).encode()).digest()
    sketch = rensa.RMinHash(num_perm=VALUES, seed=_SEED)
    sketch.update([" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))])
    signature = np.array(sketch.digest(), dtype=np.uint32).tobytes()
    return int.from_bytes(digest[:8], "big") >> 1, signature


def method() -> str:
    """Return what stored fingerprints depend on; another method means that all are made anew."""
    import rensa

    return f"{rensa.RMinHash.ALGORITHM_VERSION}.{_SEED}.{VALUES}"


def cluster(
    digests: npt.NDArray[np.int64],
    signatures: Signatures,
    threshold: float,
    given: Sequence[tuple[int, int]] = (),
) -> Clusters:
    """Group n articles by digest (n,) and signature (n, VALUES); the earlier article stands first.

    `threshold` is the Jaccard similarity, here estimated with a standard error of at most 0.045.
    `given` holds pairs that are one story by their source's word.
    """
    copy_of = _firsts(digests)
    groups = Groups(len(digests))
    copies = np.flatnonzero(copy_of != np.arange(len(digests)))
    for i, j in [*zip(copies.tolist(), copy_of[copies].tolist(), strict=True), *given]:
        groups.join(i, j)
    for left, right in _candidates(signatures):
        alike = (signatures[left] == signatures[right]).mean(axis=1) >= threshold
        for i, j in zip(left[alike].tolist(), right[alike].tolist(), strict=True):
            groups.join(i, j)
    story = np.array([groups.find(i) for i in range(len(digests))], dtype=np.int64)
    return Clusters(story, copy_of)


def _firsts(digests: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def _candidates(
    signatures: Signatures, batch: int = 16_384
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield pairs that agree in a band: each article with its neighbour and its bucket's first.

    Sorting a band's keys puts equal ones side by side: linear memory, n log n time, and a bucket of
    k articles costs 2k comparisons, not k squared.
    """
    for band in range(_BANDS):
        keys = _band_keys(signatures[:, band * _ROWS : (band + 1) * _ROWS])
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
        if not len(same):
            continue
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
        heads = starts[np.searchsorted(starts, same, side="right") - 1]
        left = np.r_[order[same - 1], order[heads]]
        right = np.r_[order[same], order[same]]
        for i in range(0, len(left), batch):
            yield left[i : i + batch], right[i : i + batch]


def _band_keys(values: Signatures) -> npt.NDArray[np.uint64]:
    # Odd 64-bit constants (of splitmix64): one 64-bit key for three 32-bit values.
    mix = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)
    return np.asarray((values.astype(np.uint64) * mix).sum(axis=1, dtype=np.uint64))
