"""Ablation: what each choice of the recipe is worth, over seeds, on validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import transformers
from rich.console import Console

from presseco import tracking
from presseco.ablation import BASE, ablation_table
from presseco.config import Config, read_config, read_yaml
from presseco.corpus import build_corpus
from presseco.errors import ConfigError, nearest
from presseco.examples import Data, load_data
from presseco.files import write_text
from presseco.points import (
    compute_point,
    find_point,
    flat_metrics,
    forget_encoded,
    merge_points,
    point_key,
    share_encoded,
    subset,
    without_test,
)
from presseco.progress import progress


@dataclass(frozen=True)
class Plan:
    """The ablation file: the experiment to start from, and named differences as overrides."""

    experiment: Path
    differences: dict[str, list[str]]


def read_plan(path: Path, only: Sequence[str] = ()) -> Plan:
    """Read an ablation file; `only` keeps some differences (the base always stays).

    Raises `ConfigError` for a difference that is unknown or that the configuration refuses.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; see configs/ablation.yaml")
    data = read_yaml(path)
    if not isinstance(data, dict) or set(data) != {"experiment", "differences"}:
        raise ConfigError(f"{path}: expected the keys experiment and differences")
    found = data["differences"] or {}
    for name in only:
        if name not in found:
            raise ConfigError(
                f"{path}: no difference {name!r}{nearest(name, found)}; it has: {', '.join(found)}"
            )
    if BASE in found:
        raise ConfigError(f"{path}: {BASE!r} is the name of the unchanged recipe; choose another")
    chosen = {n: found[n] for n in found if not only or n in only}
    experiment = path.resolve().parent / data["experiment"]
    plan = Plan(experiment, {n: _overrides(path, n, c) for n, c in chosen.items()})
    for name, overrides in plan.differences.items():
        try:
            read_config(experiment, overrides)
        except ConfigError as e:
            raise ConfigError(f"{path}: {name}: {e}") from None
    return plan


def _overrides(path: Path, name: str, change: Any) -> list[str]:
    if not isinstance(change, dict) or not change:
        raise ConfigError(f"{path}: {name}: expected settings, such as {{camembert.average: 0.0}}")
    return [f"{key}={json.dumps(value)}" for key, value in change.items()]


def ablate(
    file: Path, overrides: Sequence[str], *, seeds: Sequence[int], size: int, only: Sequence[str]
) -> Path:
    """Train the base and every difference with every seed; return the Markdown table's path.

    Points computed before (build/points) are taken from there. Each new one is appended to
    benchmarks/ablation.json at once, so a stopped ablation goes on where it was.
    """
    plan = read_plan(file, only)
    base = read_config(plan.experiment, overrides)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tracking.record(base.root, base.tracking.experiment)
    corpus, _ = build_corpus(base)
    whole = without_test(load_data(corpus))
    tags = {"purpose": "ablation", "corpus": corpus.digest}
    points: list[dict[str, Any]] = []
    with tracking.run(f"ablation · {len(plan.differences)} differences", tags=tags):
        for seed in seeds:
            data = subset(whole, size, seed)
            for about, config in _turn(plan, overrides, seed, data):
                points.append(_point(config, data, about))
                merge_points(base.path("benchmarks/ablation.json"), points[-1:])
            share_encoded(whole, data)
        mlflow.set_tag("mlflow.note.content", ablation_table(points))
    return write_ablation(base.root)


def _turn(
    plan: Plan, overrides: Sequence[str], seed: int, data: Data
) -> Iterator[tuple[dict[str, Any], Config]]:
    """Yield the base and every difference of one seed, with what its point says about itself."""
    ours = [*overrides, f"seed={seed}"]
    base = read_config(plan.experiment, ours)
    batch = _batch(base, data.corpus.digest, len(data.train.ids))
    for name, change in [(BASE, []), *plan.differences.items()]:
        config = read_config(plan.experiment, [*ours, *change])
        if change and config == base:
            Console().print(f"{name}: the base does this already, left out", markup=False)
            continue
        forget_encoded(data, base, config)
        about = {"batch": batch, "base": [*overrides], "difference": name, "change": change}
        yield about | {"epochs": base.camembert.epochs}, config


def _point(config: Config, data: Data, about: dict[str, Any]) -> dict[str, Any]:
    key = point_key(config, data)
    name = f"{about['difference']} · {len(data.train.ids)} articles · seed {config.seed}"
    console = Console()
    point = find_point(config, key)
    if point is None:
        with (
            tracking.run(name, nested=True, tags={"purpose": "ablation"}),
            progress(console, name) as report,
        ):
            mlflow.log_params({"difference": about["difference"], "seed": config.seed})
            mlflow.log_params({"change": " ".join(about["change"]) or "none"})
            point = compute_point(
                config, data, key, report, lambda m, step: mlflow.log_metrics(m, step=step)
            )
            mlflow.log_metrics(flat_metrics(point))
    scores = {t: round(s["macro_f1"], 3) for t, s in point["validation"].items()}
    console.print(f"{name}: {scores}, {point['seconds']:.0f} s", markup=False, soft_wrap=True)
    return about | point


def _batch(base: Config, corpus: str, articles: int) -> str:
    """Return the digest of the recipe that differences are taken from: only its points pair."""
    sections = {"kind", "baseline", "frozen", "camembert"}
    if base.distil:  # without, batches keep the names that they have
        sections |= {"distil"}
    settings = base.model_dump(mode="json", include=sections)
    text = json.dumps([settings, corpus, articles], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def write_ablation(root: Path) -> Path:
    """Write docs/ablation.md from benchmarks/ablation.json."""
    points = json.loads((root / "benchmarks/ablation.json").read_text(encoding="utf-8"))
    head = (
        "# Ablation\n\nGenerated by `make ablate` from benchmarks/ablation.json. Macro-F1 on the "
        "validation split (held-out writers); the test split is not looked at. Each line changes "
        "one thing of the recipe (the heading names what this base changes itself) and gives the "
        "paired difference to the base over seeds with its 95 % interval (Student's t): negative "
        "means that the recipe is right to have it. **Bold**: the interval excludes zero. With many "
        "lines a few do so by chance.\n\n"
    )
    target = root / "docs/ablation.md"
    write_text(target, head + ablation_table(points) + "\n")
    return target
