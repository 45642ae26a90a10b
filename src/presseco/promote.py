"""The gate of the registry: a challenger becomes champion only if every rule is met."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.console import Console

from presseco import tracking
from presseco.compare import Comparison, compare_runs, read_run
from presseco.config import Config
from presseco.errors import StoreError
from presseco.experiments import DEFAULT
from presseco.registry import CHAMPION
from presseco.views import ROLE


@dataclass(frozen=True)
class Rule:
    """One rule of the gate, what it found, and whether it is met."""

    name: str
    found: str
    met: bool


def rules(c: Comparison, config: Config) -> list[Rule]:
    """Return the gate's rules for challenger B against champion A; limits from `promote:`."""
    limits, m = config.promote, c.b.metrics
    verdicts = {d.task: d.verdict for d in c.differences}
    worse = [t for t, v in verdicts.items() if v == "worse"]
    better = [t for t, v in verdicts.items() if v == "better"]
    out = [
        Rule("worse on no task (95 % interval)", ", ".join(worse) or "none", not worse),
        Rule("better on a task (95 % interval)", ", ".join(better) or "none", bool(better)),
    ]
    ece = {t: m.get(f"test.{t}.ece", float("inf")) for t in verdicts}
    worst = max(ece, key=lambda t: ece[t])
    out.append(
        Rule(f"ECE <= {limits.max_ece}", f"{worst} {ece[worst]:.3f}", ece[worst] <= limits.max_ece)
    )
    size, speed = m.get("megabytes", float("inf")), m.get("docs_per_second", 0.0)
    out.append(
        Rule(f"size <= {limits.max_megabytes} MB", f"{size:.0f} MB", size <= limits.max_megabytes)
    )
    least = limits.min_docs_per_second
    out.append(Rule(f"speed >= {least} docs/s", f"{speed:.0f} docs/s", speed >= least))
    robust = m.get("robustness.invariance")
    found = f"not measured: run {_robustness(c.b.model)}" if robust is None else f"{robust:.3f}"
    met = robust is not None and robust >= limits.min_invariance
    out.append(Rule(f"invariance >= {limits.min_invariance}", found, met))
    return out


def promote(config: Config, model: str, version: str | None, console: Console) -> bool:
    """Judge a version (default: the newest) and move the alias if it passes; log the decision.

    Raises `StoreError` when the registry has no such model or version, or no champion of it.
    """
    tracking.connect(config.root, config.tracking.experiment)
    client = MlflowClient()
    try:
        versions = client.search_model_versions(f"name = '{model}'")
        champion = client.get_model_version_by_alias(model, CHAMPION)
    except MlflowException as e:
        raise StoreError(f"registered model {model!r}: {str(e).splitlines()[0]}") from e
    by_number = {int(v.version): v for v in versions}
    number = max(by_number) if version is None else _number(version)
    if number not in by_number:
        told = ", ".join(map(str, sorted(by_number)))
        raise StoreError(f"registered model {model!r} has no version {version!r}; it has: {told}")
    challenger = by_number[number]
    if str(challenger.version) == str(champion.version):
        console.print(f"{model} {champion.version} is the champion already")
        return False
    experiment = config.tracking.experiment
    judged = rules(
        compare_runs(
            read_run(champion.run_id, experiment), read_run(challenger.run_id, experiment)
        ),
        config,
    )
    passed = all(r.met for r in judged)
    for r in judged:
        mark = "[green]met   [/]" if r.met else "[red]failed[/]"
        console.print(f"{mark} {r.name}: {r.found}")
    decision = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "champion": str(champion.version),
        "challenger": str(challenger.version),
        "promoted": passed,
        "rules": [asdict(r) for r in judged],
    }
    client.set_model_version_tag(
        model, challenger.version, "gate", "passed" if passed else "failed"
    )
    client.log_text(challenger.run_id, json.dumps(decision, indent=1), "promote.json")
    _append(config.path("build/promotions.jsonl"), decision)
    if passed:
        client.set_registered_model_alias(model, CHAMPION, challenger.version)
        client.set_tag(challenger.run_id, ROLE, CHAMPION)
        client.set_tag(champion.run_id, ROLE, f"former {CHAMPION}")
    verb = "is now" if passed else "does not become"
    console.print(f"{model} {challenger.version} {verb} {CHAMPION} (was {champion.version})")
    return passed


def _robustness(model: str) -> str:
    """Return the command that measures a model's robustness: make takes the default one's folder."""
    if model == DEFAULT:
        return "`make robustness`"
    return f"`presseco robustness --model dist/{model}`"


def _number(version: str) -> int:
    """Return a version's number, -1 (which none has) for another word."""
    return int(version) if version.isdecimal() else -1


def _append(path: Path, decision: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps(decision) + "\n")
