"""Behaviour tests of a saved model: what must not change its answers, what must, what it must know.

Three kinds, after Ribeiro et al. 2020, "Beyond Accuracy" (CheckList): invariance, direction and
minimum functionality. And headlines alone, where a model should know how little it has to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.console import Console

from presseco import tracking
from presseco.changes import INVARIANCES, swap_company
from presseco.classifier import Classifier, Prediction
from presseco.config import Config, read_yaml
from presseco.corpus import build_corpus
from presseco.errors import ConfigError
from presseco.taxonomy import Taxonomy

log = logging.getLogger("presseco")

#: Returns for each text the label of each task.
Predict = Callable[[list[str]], list[dict[str, str]]]

#: Words that a headline has at least: shorter ones are names and dates.
_HEADLINE = 4


@dataclass(frozen=True)
class Case:
    """One behaviour test's result: share of passes, and the number of texts it was measured on.

    `kind` is invariance, direction, minimum (a task's examples), label (those of one label) or headline.
    """

    kind: str
    name: str
    rate: float
    n: int


def invariance(
    predict: Predict, texts: Sequence[str], companies: Sequence[str]
) -> tuple[list[Case], dict[str, float]]:
    """Return, a change, the share of (text, task) answers that stay; and by task for company swap.

    Only texts that the change really alters count.
    """
    before = predict(list(texts))
    cases, swap = [], {}
    changed_texts = {name: [f(t) for t in texts] for name, f in INVARIANCES.items()}
    changed_texts["company swapped"] = [
        swap_company(t, c) for t, c in zip(texts, companies, strict=True)
    ]
    for name, changed in changed_texts.items():
        picks = [i for i, t in enumerate(changed) if t != texts[i]]
        if not picks:
            continue
        after = predict([changed[i] for i in picks])
        same = [[before[i][t] == a[t] for t in a] for i, a in zip(picks, after, strict=True)]
        cases.append(Case("invariance", name, float(np.mean(same)), len(picks)))
        if name == "company swapped":
            swap = dict(zip(after[0], np.mean(same, axis=0).tolist(), strict=True))
    return cases, swap


def directions(predict: Predict, pairs: Sequence[dict[str, Any]]) -> list[Case]:
    """Return, a kind of pair, the share in which both texts get the labels that the pair says."""
    answers = predict([p["text"] for p in pairs] + [p["other"] for p in pairs])
    rates: dict[str, list[bool]] = {}
    for i, p in enumerate(pairs):
        first, second = answers[i], answers[i + len(pairs)]
        good = first[p["task"]] == p["label"] and second[p["task"]] == p["other_label"]
        rates.setdefault(p["kind"], []).append(good)
    return [Case("direction", k, float(np.mean(v)), len(v)) for k, v in rates.items()]


def minimum_functionality(predict: Predict, taxonomy: Taxonomy) -> list[Case]:
    """Return, a task and a label, the share of the taxonomy's own examples that get their label."""
    cases, labels = [], []
    for task in taxonomy.tasks:
        examples = [(e, label.id) for label in task.labels for e in label.examples]
        if examples:
            answers = predict([e for e, _ in examples])
            good = [a[task.name] == y for a, (_, y) in zip(answers, examples, strict=True)]
            cases.append(
                Case("minimum", f"examples of {task.name}", float(np.mean(good)), len(good))
            )
            for label in task.labels:
                own = [g for g, (_, y) in zip(good, examples, strict=True) if y == label.id]
                if own:
                    name = f"{task.name}: {label.id}"
                    labels.append(Case("label", name, float(np.mean(own)), len(own)))
    return cases + labels


def read_pairs(path: Path, taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """Read direction pairs (YAML); every label is checked against the taxonomy."""
    pairs = read_yaml(path)
    needed = {"kind", "task", "text", "label", "other", "other_label"}
    if not isinstance(pairs, list):
        raise ConfigError(f"{path}: expected a list of pairs, found {type(pairs).__name__}")
    for number, p in enumerate(pairs, 1):
        if not isinstance(p, dict) or set(p) != needed:
            found = sorted(map(str, p)) if isinstance(p, dict) else type(p).__name__
            raise ConfigError(f"{path}: pair {number} has keys {found}; expected {sorted(needed)}")
        for key in ("label", "other_label"):
            taxonomy.check(p["task"], p[key], f"{path}: pair {number}")
    return list(pairs)


def check_model(
    predict: Predict,
    taxonomy: Taxonomy,
    pairs: Sequence[dict[str, Any]],
    texts: Sequence[str],
    companies: Sequence[str],
) -> tuple[list[Case], dict[str, float]]:
    """Run all three kinds; return the cases and their means as MLflow metrics `robustness.*`."""
    cases, swap = invariance(predict, texts, companies)
    cases += directions(predict, pairs) + minimum_functionality(predict, taxonomy)
    metrics = {}
    for kind in ("invariance", "direction", "minimum"):
        rates = [c.rate for c in cases if c.kind == kind]
        if rates:
            metrics[f"robustness.{kind}"] = float(np.mean(rates))
    # Two runs' direction compares only over the same pairs: their number tells.
    metrics["robustness.direction_pairs"] = float(len(pairs))
    return cases, metrics | {f"robustness.company_swap.{t}": v for t, v in swap.items()}


def headlines(
    predict: Callable[[list[str]], Sequence[Prediction]],
    titles: Sequence[str],
    labels: Sequence[Mapping[str, str | None]],
) -> list[Case]:
    """Return, a task, the share of headlines that are answered, and the share of these that are right.

    `labels` are those of the whole articles. Thresholds are set on articles: a text far shorter should
    be answered seldom, not wrongly.
    """
    picks = [i for i, t in enumerate(titles) if len(t.split()) >= _HEADLINE]
    found = predict([titles[i] for i in picks])
    cases = []
    for task in labels[0] if picks else ():
        answers = [(p.answers[task], labels[i][task]) for i, p in zip(picks, found, strict=True)]
        given = [(a.label == y) for a, y in answers if y is not None and not a.abstained]
        known = sum(y is not None for _, y in answers)
        if known:
            cases.append(Case("headline", f"{task}: answered", len(given) / known, known))
        if given:
            cases.append(Case("headline", f"{task}: right", float(np.mean(given)), len(given)))
    return cases


def check_bundle(model: str, config: Config, sample: int = 150) -> list[Case]:
    """Check a bundle on test articles of the corpus and log the rates to the run that made it."""
    classifier = Classifier.load(model)
    corpus, _ = build_corpus(config)
    test = corpus.load()["test"]
    picks = np.random.default_rng(0).permutation(len(test))[:sample]

    def predict(texts: list[str]) -> list[dict[str, str]]:
        found = classifier.predict(texts)
        return [{t: a.label for t, a in p.answers.items()} for p in found]

    cases, metrics = check_model(
        predict,
        corpus.taxonomy,
        read_pairs(config.path("configs/robustness.yaml"), corpus.taxonomy),
        [test[int(i)]["text"] for i in picks],
        [test[int(i)]["company"] for i in picks],
    )
    ids = {task.name: task.ids for task in corpus.taxonomy.tasks}
    labels = [{t: None if r[t] is None else i[r[t]] for t, i in ids.items()} for r in test]
    alone = headlines(classifier.predict, test["title"], labels)
    cases += alone
    for case in alone:
        task, what = case.name.split(": ")
        metrics[f"robustness.headline_{what}.{task}"] = case.rate
    tracking.connect(config.root, config.tracking.experiment)
    client, run_id = MlflowClient(), classifier.bundle.lineage["run_id"]
    try:
        run_id = tracking.find_run(run_id).info.run_id
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        client.log_dict(run_id, {"cases": [vars(c) for c in cases]}, "robustness.json")
        Console().print(f"logged to run {run_id}", soft_wrap=True)
    except MlflowException as e:
        # A bundle from another store is still worth its figures; they are just not logged.
        log.warning("not logged: run %s is not in this store (%s)", run_id, str(e).splitlines()[0])
    return cases
