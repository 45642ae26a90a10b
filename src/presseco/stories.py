"""Find articles that tell one story: exact copies and texts that share many word 5-grams."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise
from zlib import crc32

#: A 5-gram found in more articles than this is a set phrase ("dans un communiqué publié ce"), and
#: pairing everybody who uses it would cost quadratic time for no pair over any useful threshold.
_COMMON = 50
_WORD = re.compile(r"\w+")


def five_grams(text: str) -> set[int]:
    """Return the hashed word 5-grams of a text, case and punctuation ignored."""
    words = _WORD.findall(text.casefold())
    if len(words) < 5:
        return {_digest(words)}
    return {_digest(words[i : i + 5]) for i in range(len(words) - 4)}


def _digest(words: list[str]) -> int:
    # crc32, not hash(): Python salts the hash of strings, and the build must not differ by process.
    return crc32(" ".join(words).encode())


def near_pairs(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Return `(i, j, jaccard)` with i < j for pairs at or over `threshold`, exactly computed.

    All such pairs, except among texts whose every 5-gram stands in more than 50 texts (a dispatch
    that sixty papers print): there each is paired with its next, which joins them all the same.
    """
    grams = [five_grams(t) for t in texts]
    owners: dict[int, list[int]] = defaultdict(list)
    for i, g in enumerate(grams):
        for x in g:
            owners[x].append(i)
    shared: Counter[tuple[int, int]] = Counter()
    common = [0] * len(texts)
    for who in owners.values():
        if len(who) <= _COMMON:
            shared.update(combinations(who, 2))
        else:
            shared.update(dict.fromkeys(pairwise(who), 0))
            for i in who:
                common[i] += 1
    out = []
    for (i, j), n in shared.items():
        most = n + min(common[i], common[j])
        if most >= threshold * (len(grams[i]) + len(grams[j]) - most):
            same = len(grams[i] & grams[j])
            jaccard = same / (len(grams[i]) + len(grams[j]) - same)
            if jaccard >= threshold:
                out.append((i, j, jaccard))
    return sorted(out)


class Groups:
    """Union-find over item numbers: whoever shares a story, company or writer stays together."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, i: int) -> int:
        """Return the group's representative, its smallest member."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Put two items into one group."""
        a, b = sorted((self.find(i), self.find(j)))
        self._parent[b] = a
