"""The search: what a trial may choose, and the whole verb on tiny data."""

from __future__ import annotations

import json

import optuna
import pytest
import yaml
from mlflow.tracking import MlflowClient

from conftest import SHRINK, experiment, sets
from presseco.__main__ import main
from presseco.config import read_config
from presseco.errors import StoreError
from presseco.tune import _alone, _study, space


def test_settings_of_a_trial_are_ones_that_an_experiment_may_have(project):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for kind, name in (("camembert", "camembert-mini"), ("baseline",) * 2, ("frozen",) * 2):
        for _ in range(20):
            chosen = space(study.ask(), kind, layers=2)
            config = read_config(experiment(project, name), [f"{k}={v}" for k, v in chosen.items()])
            assert config.camembert.frozen_layers <= 2
            for key, value in chosen.items():
                section, _, field = key.partition(".")
                assert getattr(getattr(config, section), field) == value, "rounded before use"


def test_search_never_freezes_every_layer():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = [space(study.ask(), "camembert", 2)["camembert.frozen_layers"] for _ in range(30)]
    assert set(chosen) == {0, 1}


def test_other_settings_are_another_study_and_two_searches_do_not_meet(project):
    (project / "build").mkdir()
    names = []
    distil = [[f"distil.teacher={t}"] for t in ("dist/a", "dist/b")]
    for overrides in ([], ["camembert.max_tokens=64"], *distil, ["seed=2"]):
        config = read_config(experiment(project, "camembert-mini"), overrides)
        names.append(_study(config, "corpus").study_name)
    names.append(_study(config, "other corpus").study_name)
    assert len(set(names)) == 6
    again = pytest.raises(StoreError, match="another process searches in this folder")
    with _alone(config), again, _alone(config):
        pass
    with _alone(config):
        pass


def test_search_that_goes_on_does_not_draw_the_same_again(project):
    (project / "build").mkdir()
    config = read_config(experiment(project, "camembert-mini"))
    first = _study(config, "c").ask().suggest_float("x", 0, 1)
    second = _study(config, "c").ask().suggest_float("x", 0, 1)
    assert first != second


@pytest.mark.services
def test_search_on_a_tiny_project(project, monkeypatch, capsys):
    """Trials, pruning, a trial that was cut off, the best as an experiment that train accepts."""
    monkeypatch.chdir(project)
    file = experiment(project, "camembert-mini")
    shrink = [*SHRINK, "camembert.epochs=3", "camembert.weight_decay=0.03"]
    assert main(["tune", "--experiment", file, "--trials", "1", *sets(shrink)]) == 0

    # What a killed search leaves: a trial that is RUNNING in the study.
    config = read_config(file, shrink)
    names = optuna.get_all_study_names(f"sqlite:///{project}/build/tune.db")
    study = optuna.load_study(study_name=names[0], storage=f"sqlite:///{project}/build/tune.db")
    cut = study.ask()
    space(cut, "camembert", 2)

    assert main(["tune", "--experiment", file, "--trials", "11", *sets(shrink)]) == 0
    printed = capsys.readouterr().out
    assert f"trial {cut.number} was cut off" in printed
    trials = optuna.load_study(study_name=names[0], storage=study._storage).trials
    assert len(names) == 1 and len(trials) == 13
    assert trials[cut.number].state == optuna.trial.TrialState.FAIL
    assert trials[cut.number + 1].params == cut.params
    pruned = [t for t in trials if t.state == optuna.trial.TrialState.PRUNED]
    assert pruned and all(len(t.intermediate_values) >= 2 for t in pruned)
    finished = [t for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(finished) + len(pruned) == 12

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("presseco").experiment_id])
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(children) == 12 and {r.info.status for r in runs} == {"FINISHED"}
    assert sum(r.data.tags.get("pruned") == "true" for r in children) == len(pruned)
    left = [p for p in (project / "build" / "runs").iterdir() if p.suffix != ".lock"]
    assert left == []

    best = max(finished, key=lambda t: t.value)
    written = project / "configs" / "experiment" / "camembert-mini-tuned.yaml"
    body = yaml.safe_load(written.read_text("utf-8"))
    assert body["name"] == "camembert-mini-tuned" and body["camembert"]["weight_decay"] == 0.03
    tuned = read_config(written)
    assert tuned.camembert.layer_decay == pytest.approx(best.params["layer_decay"], rel=0.01)
    assert tuned.camembert.max_tokens == config.camembert.max_tokens == 64
    capsys.readouterr()
    assert main(["train", str(written), "--set", "tracking.register=false"]) == 0
    [run] = [
        r
        for r in client.search_runs([runs[0].info.experiment_id])
        if r.info.run_name.startswith("camembert-mini-tuned")
    ]
    # The epochs' scores are from before the word logits, a trial's from after: so is the point's.
    assert client.get_metric_history(run.info.run_id, "validation.macro_f1")
    [point] = [
        p
        for f in (project / "build" / "points").glob("*.json")
        if (p := json.loads(f.read_text("utf-8")))["model"] == "camembert-mini-tuned"
    ]
    scores = [s["macro_f1"] for s in point["validation"].values()]
    assert sum(scores) / len(scores) == pytest.approx(best.value, abs=1e-5)
