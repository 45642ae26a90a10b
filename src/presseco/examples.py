"""A built corpus in memory: texts and labels of each split, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from presseco.corpus import Corpus
from presseco.errors import ConfigError
from presseco.evaluate import Ints
from presseco.taxonomy import MISSING

#: How the names of train's states begin; more texts than its articles make another name.
TRAIN = "train"


@dataclass(frozen=True)
class Examples:
    """One split in memory: texts, labels of shape (texts, tasks) with `MISSING` for unknown, writers."""

    ids: list[str]
    texts: list[str]
    labels: Ints
    writers: list[str]

    def take(self, rows: Sequence[int] | Ints) -> Examples:
        """Return some of the examples, in this order, perhaps repeated."""
        return Examples(
            [self.ids[i] for i in rows],
            [self.texts[i] for i in rows],
            self.labels[np.asarray(rows, dtype=np.int64)],
            [self.writers[i] for i in rows],
        )


@dataclass
class Data:
    """All splits of a corpus, and its out-of-domain texts by split."""

    corpus: Corpus
    train: Examples
    validation: Examples
    test: Examples
    outside: dict[str, list[str]]
    encoded: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def encoded_elsewhere(self) -> dict[tuple[Any, ...], Any]:
        """Return what is encoded of the other splits: all subsets of train share it."""
        return {k: v for k, v in self.encoded.items() if not str(k[-1]).startswith(TRAIN)}

    @property
    def task_map(self) -> list[list[Any]]:
        """Return the tasks and labels in the order of the logits."""
        return self.corpus.taxonomy.task_map


def load_data(corpus: Corpus) -> Data:
    """Read a built corpus into memory."""
    table = corpus.load()
    splits = {}
    for name in ("train", "validation", "test"):
        columns = [
            [MISSING if v is None else v for v in table[name][t]] for t in corpus.taxonomy.names
        ]
        labels = np.array(columns, dtype=np.int64).T.reshape(len(table[name]), -1)
        ids, texts, writers = (list(table[name][c]) for c in ("id", "text", "writer"))
        splits[name] = Examples(ids, texts, labels, writers)
    outside: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for row in corpus.outside():
        outside[row["split"]].append(row["text"])
    data = Data(corpus, splits["train"], splits["validation"], splits["test"], outside)
    _check_labels(data)
    return data


def _check_labels(data: Data) -> None:
    """Refuse a split that a task cannot be learnt from, or judged on, before hours are spent."""
    advice = "Add articles, or see corpus.validation_writers and test_writers."
    needed = (("train", data.train, 2), ("validation", data.validation, 1), ("test", data.test, 1))
    for name, split, least in needed:
        check_labels(data.task_map, split, least, f"the {name} split", advice)


def check_labels(
    task_map: list[list[Any]], examples: Examples, least: int, where: str, advice: str
) -> None:
    """Raise `ConfigError` when a task has fewer than `least` different labels in the examples."""
    for t, (task, _) in enumerate(task_map):
        found = len(np.unique(examples.labels[examples.labels[:, t] >= 0, t]))
        if found < least:
            raise ConfigError(
                f"{task}: {found} different labels in {where}, at least {least} needed. {advice}"
            )
