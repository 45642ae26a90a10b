"""Find articles that tell one story: exact copies and texts that share many word 5-grams."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
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
    """Return `(i, j, jaccard)` with i < j for all pairs at or over `threshold`, exactly computed."""
    grams = [five_grams(t) for t in texts]
    owners: dict[int, list[int]] = defaultdict(list)
    for i, g in enumerate(grams):
        for x in g:
            owners[x].append(i)
    shared: Counter[tuple[int, int]] = Counter()
    for who in owners.values():
        if 1 < len(who) <= _COMMON:
            shared.update(combinations(who, 2))
    out = []
    for (i, j), n in shared.items():
        jaccard = n / (len(grams[i]) + len(grams[j]) - n)
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
