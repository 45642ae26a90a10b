"""Labels that look wrong: confident learning (cleanlab) on predictions made out of sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold

from presseco.article import Article
from presseco.baseline import fit_baseline
from presseco.config import BaselineConfig
from presseco.errors import ConfigError
from presseco.evaluate import Floats, Ints, split_logits
from presseco.progress import Report
from presseco.taxonomy import MISSING, Taxonomy


@dataclass(frozen=True)
class Suspect:
    """One label in doubt: what is given, what the others' articles suggest, and `quality`.

    `quality` is cleanlab's label quality, 0 (surely wrong) to 1.
    """

    id: str
    task: str
    given: str
    suggested: str
    quality: float


def held_out(
    articles: Sequence[Article],
    taxonomy: Taxonomy,
    config: BaselineConfig,
    report: Report,
    folds: int = 5,
) -> tuple[Ints, dict[str, Floats]]:
    """Return the labels, shape (articles, tasks), and each task's probabilities, out of sample.

    The baseline is trained on the other folds; a story (or writer, where named) is in one fold, so
    that no article is judged by its twin. A task with fewer than two labels in use is left out.
    """
    labels = np.array(
        [[taxonomy.index(t, a.labels[t]) for t in taxonomy.names] for a in articles], dtype=np.int64
    )
    used = [t for t in range(labels.shape[1]) if len(set(labels[:, t].tolist()) - {MISSING}) > 1]
    task_map = [taxonomy.task_map[t] for t in used]
    if not used:
        raise ConfigError("no task has two different labels; nothing to audit")
    groups = [a.writer or a.story or a.id for a in articles]
    if len(set(groups)) < folds:
        groups = [a.story or a.id for a in articles]
    if len(set(groups)) < folds:
        raise ConfigError(f"{len(set(groups))} stories; an audit needs {folds} or more")
    texts = [a.text for a in articles]
    one = config.model_copy(update={"c_grid": [config.c_grid[len(config.c_grid) // 2]]})
    flat = np.zeros((len(articles), sum(len(x) for _, x in task_map)))
    for k, (rest, held) in enumerate(GroupKFold(folds).split(texts, groups=groups)):
        report(f"fold {k + 1}", k, folds)
        model = fit_baseline(
            [texts[i] for i in rest],
            labels[rest][:, used],
            [texts[held[0]]],
            labels[held[:1]][:, used],
            task_map=task_map,
            config=one,
        )
        flat[held] = model.logits([texts[i] for i in held])
    return labels, split_logits(flat, task_map)


def suspects(
    ids: Sequence[str], labels: Ints, probabilities: dict[str, Floats], taxonomy: Taxonomy
) -> list[Suspect]:
    """Return the labels that cleanlab finds wrong, the worst first."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    out: list[Suspect] = []
    for t, task in enumerate(taxonomy.tasks):
        if task.name not in probabilities:
            continue
        known = np.flatnonzero(labels[:, t] != MISSING)
        # cleanlab wants every class in the labels: those that none has are taken out.
        classes = np.unique(labels[known, t])
        p = probabilities[task.name][known][:, classes]
        p = p / p.sum(axis=1, keepdims=True)
        y = np.searchsorted(classes, labels[known, t])
        found = find_label_issues(y, p, n_jobs=1)
        quality = get_label_quality_scores(y, p)
        out += [
            Suspect(
                ids[known[i]],
                task.name,
                task.ids[classes[y[i]]],
                task.ids[classes[p[i].argmax()]],
                float(quality[i]),
            )
            for i in np.flatnonzero(found)
        ]
    return sorted(out, key=lambda s: s.quality)


def summary(found: Sequence[Suspect], labels: Ints, taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """Return a row a task: labels, how many look wrong, and the commonest confusion."""
    rows = []
    for t, task in enumerate(taxonomy.names):
        some = [(s.given, s.suggested) for s in found if s.task == task]
        common = max(set(some), key=some.count, default=("", ""))
        n = int((labels[:, t] != MISSING).sum())
        rows.append(
            {
                "task": task,
                "labels": n,
                "suspect": len(some),
                "commonest": f"{common[0]} → {common[1]} ({some.count(common)})" if some else "",
            }
        )
    return rows
