"""The whole job on a tiny CamemBERT, through the same code as `make train`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient
from safetensors import safe_open

from conftest import SHRINK, experiment, sets, write_lines
from presseco import Classifier
from presseco.__main__ import main
from presseco.baseline import load_baseline
from presseco.bundle import read_bundle
from presseco.evaluate import confusion_matrix, macro_f1, split_logits
from presseco.reference import read_reference
from presseco.taxonomy import read_taxonomy
from presseco.text import prepare

NAMES = ("baseline", "frozen", "camembert-mini")
TASKS = ("sector", "event_type", "sentiment")


@dataclass
class Trained:
    """A project after one `presseco train`, what it printed, and its processor time."""

    project: Path
    output: str
    seconds: float

    @property
    def client(self) -> MlflowClient:
        store = f"sqlite:///{self.project}/mlflow.db"
        return MlflowClient(store, registry_uri=store)

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("presseco")
        return self.client.search_runs([experiment.experiment_id])

    def run(self, name: str) -> Any:
        [found] = [r for r in self.runs() if r.info.run_name.startswith(f"{name} · ")]
        return found


@pytest.fixture(scope="module")
def trained(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    import contextlib
    import io

    project = Path(shutil.copytree(template, tmp_path_factory.mktemp("trained") / "project"))
    started, output = _seconds(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main(["train", *(experiment(project, n) for n in NAMES), *sets(SHRINK)])
    assert code == 0, output.getvalue()
    return Trained(project, output.getvalue(), _seconds() - started)


def _seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def test_takes_less_than_a_minute_of_one_core(trained):
    assert trained.seconds < 60


def test_each_training_is_a_point_that_the_curve_need_not_repeat(trained):
    from presseco.config import read_config
    from presseco.corpus import build_corpus
    from presseco.examples import load_data
    from presseco.points import find_point, point_key
    from presseco.runs import last_training

    _, rows = last_training(trained.project)
    for name, row in zip(NAMES, rows, strict=True):
        config = read_config(experiment(trained.project, name), SHRINK)
        data = load_data(build_corpus(config)[0])
        point = find_point(config, point_key(config, data))
        assert point is not None and point["articles"] == len(data.train.ids)
        for task, found in point["test"].items():
            assert found["macro_f1"] == pytest.approx(
                row.metrics[f"test.{task}.macro_f1"], abs=1e-5
            )


def test_results_page_and_readme_are_written_from_the_runs(trained):
    from presseco.results import write_results
    from presseco.runs import last_training

    readme = trained.project / "README.md"
    readme.write_text("# x\n\n<!-- results -->\nold\n<!-- /results -->\n\nend\n", encoding="utf-8")
    point = {"corpus": "c", "articles": 9, "model": "baseline", "test": {}}
    points = [
        point | {"seed": s, "test": {"sector": {"macro_f1": f}}, "key": f"{i}"}
        for i, (s, f) in enumerate([(1, 0.9), (1, 0.4), (2, 0.6)])  # an earlier recipe's first
    ]
    curve = trained.project / "benchmarks" / "curve.json"
    curve.parent.mkdir()
    curve.write_text(json.dumps(points), encoding="utf-8")
    page = write_results(trained.project).read_text(encoding="utf-8")
    _, rows = last_training(trained.project)
    assert [r.name for r in rows] == list(NAMES)
    for row in rows:
        cell = f"{row.metrics['test.sector.macro_f1']:.3f}"
        for text in (page, readme.read_text(encoding="utf-8")):
            assert re.search(rf"^\| {row.name} \| {cell}", text, re.MULTILINE)
    assert readme.read_text(encoding="utf-8").endswith("<!-- /results -->\n\nend\n")
    assert "| 9 | baseline | 2 | 0.500 ± 0.141 |" in page
    for picture in ("results", "curve"):
        assert (trained.project / f"docs/figures/{picture}.png").read_bytes()[:4] == b"\x89PNG"
    every = re.findall(r"^\| to a table of labels \| (\d+) \|", page, re.MULTILINE)
    assert every == [str(sum(int(n) for n in re.findall(r"^\| [A-Z]* \| (\d+) \|", page, re.M)))]


def test_ends_with_one_table_and_the_next_commands(trained):
    tail = trained.output[trained.output.index("Test split: macro-F1") :]
    for name in NAMES:
        assert re.search(rf"^ *{name} +0\.\d+ +0\.\d+ +0\.\d+ +\d+ +\d+ +\d", tail, re.MULTILINE)
    assert len(re.findall(r"0\.\d{3}–[01]\.\d{3}", tail)) == 9
    assert re.search(r"docs/s +MB +min", tail) and "…" not in tail
    assert "make ui" in tail and "presseco predict --model dist/camembert" in tail


def test_output_that_is_no_terminal_is_short_and_plain(trained):
    assert "\x1b" not in trained.output and "\r" not in trained.output
    assert len(trained.output.splitlines()) < 60
    assert max(map(len, trained.output.splitlines())) < 200


def test_one_parent_with_one_child_a_model(trained):
    runs = trained.runs()
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r is not parent]
    assert len(children) == 3
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parent.info.run_id}
    assert {r.info.status for r in runs} == {"FINISHED"}
    for name in NAMES:
        for task in TASKS:
            assert f"{name}.{task}.macro_f1" in parent.data.metrics


@pytest.mark.parametrize("name", NAMES)
def test_run_says_all_that_a_comparison_needs(trained, name):
    run = trained.run(name)
    assert len(run.data.params) <= 25
    assert {"kind", "seed", "corpus_digest", "git_commit", "taxonomy_version"} <= set(
        run.data.params
    )
    for task in TASKS:
        for measure in ("macro_f1", "accuracy", "ece"):
            assert 0 <= run.data.metrics[f"test.{task}.{measure}"] <= 1
    gains = {key for key in run.data.metrics if key.endswith(".word_gain")}
    assert gains == ({"validation.word_gain", "test.word_gain"} if name == NAMES[-1] else set())
    artifacts = {f.path for f in trained.client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "reliability.png", "risk_coverage.png", "calibration.json"} <= artifacts
    for task in TASKS:
        assert {f"confusion_{task}.png", f"per_class_{task}.json"} <= artifacts
    assert {"report.html", "f1_by_label.png", "predictions_test.json"} <= artifacts
    assert len(run.data.metrics) <= 60
    inputs = run.inputs.dataset_inputs
    uses = {t.value for d in inputs for t in d.tags if t.key == "mlflow.data.context"}
    assert uses == {"training", "validation", "testing"}
    assert len({d.dataset.digest for d in inputs}) == 3
    roles = {"baseline": "champion", "frozen": None, "camembert-mini": "champion"}
    assert run.data.tags.get("role") == roles[name]
    assert "95 % bootstrap" in run.data.tags["mlflow.note.content"]


def test_logged_model_is_bound_to_its_scores(trained):
    run = trained.run("camembert-mini")
    [model] = trained.client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    bound = {m.key: m.value for m in model.metrics}
    for task in TASKS:
        key = f"test.{task}.macro_f1"
        assert bound[key] == run.data.metrics[key]


def test_metrics_have_a_value_an_epoch(trained):
    run = trained.run("camembert-mini")
    for key in ("train.loss", "validation.macro_f1"):
        steps = [m.step for m in trained.client.get_metric_history(run.info.run_id, key)]
        assert steps == [1, 2]


def test_bundle_carries_what_drift_compares_with(trained):
    bundle = read_bundle(trained.project / "dist" / "camembert")
    reference = read_reference(bundle)
    assert (reference.articles, reference.train_articles) == (40, 80 + 30)  # and the seeds
    table = json.loads(
        mlflow.artifacts.load_text(
            f"{trained.run('camembert-mini').info.artifact_uri}/predictions_test.json"
        )
    )
    for task in bundle.tasks:
        known = reference.tasks[task.name]
        assert sum(known.labels) == sum(known.confidence.counts) == 40
        column = table["columns"].index(task.name)
        guessed = {row[column] for row in table["data"]}
        assert all(known.labels[task.labels.index(label)] > 0 for label in guessed)


def test_logged_config_trains_the_same_experiment(trained):
    run = trained.run("camembert-mini")
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml")
    assert yaml.safe_load(text)["camembert"]["max_tokens"] == 64
    assert yaml.safe_load(text)["corpus"]["test_writers"] == ["F"]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_logged_predictions(trained, name):
    run = trained.run(name)
    table = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/predictions_test.json"))
    rows = [dict(zip(table["columns"], r, strict=True)) for r in table["data"]]
    assert len(rows) == 20
    taxonomy = read_taxonomy(trained.project / "configs" / "taxonomy.yaml")
    for task in TASKS:
        truth, guess = (
            np.array([taxonomy.index(task, r[c]) for r in rows]) for c in (f"{task}_true", task)
        )
        score = macro_f1(confusion_matrix(truth, guess, len(taxonomy[task].ids)))
        assert run.data.metrics[f"test.{task}.macro_f1"] == pytest.approx(score)


def test_registry_has_both_models_and_a_champion(trained):
    client = trained.client
    for name in ("presseco", "presseco-baseline"):
        model = client.get_registered_model(name)
        assert model.aliases == {"champion": "1"} or str(model.aliases["champion"]) == "1"
    assert {m.name for m in client.search_registered_models()} == {"presseco", "presseco-baseline"}


@pytest.mark.parametrize(
    ("uri", "name"),
    [("models:/presseco-baseline/latest", "baseline"), ("models:/presseco@champion", "camembert")],
)
def test_registered_model_loads_and_answers(trained, uri, name, monkeypatch):
    import pandas as pd

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.project}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{trained.project}/mlflow.db")
    model = mlflow.pyfunc.load_model(uri)
    texts = ["Le bénéfice du groupe monte de 12 %.", "L’usine ferme, 300 emplois sont perdus."]
    out = model.predict(pd.DataFrame({"text": texts}))
    assert len(out) == 2
    folder = trained.project / "dist" / name
    for task, own in own_answers(folder, texts).items():
        assert {task, f"{task}_probability", f"{task}_abstained"} <= set(out.columns)
        assert out[f"{task}_probability"].tolist() == pytest.approx(own, abs=1e-5)


def own_answers(folder: Path, texts: list[str]) -> dict[str, list[float]]:
    """Return the probabilities of a saved model's answers, without mlflow."""
    if folder.name == "camembert":
        answers = Classifier.load(folder).predict(texts)
        return {t: [a[t].probability for a in answers] for t in TASKS}
    baseline, card = load_baseline(folder)
    logits = baseline.logits([prepare(t) for t in texts])
    p = split_logits(logits, baseline.task_map, card["temperatures"])
    return {t: p[t].max(axis=1).tolist() for t in TASKS}


def test_bundles_of_dist_load_and_know_where_they_come_from(trained):
    for name, run_name in (("camembert", "camembert-mini"), ("frozen", "frozen")):
        folder = trained.project / "dist" / name
        model = Classifier.load(folder)
        [answer] = model.predict(["Alibaba va investir 380 milliards de yuans dans le cloud."])
        assert set(answer.answers) == set(TASKS)
        run = trained.run(run_name)
        assert model.bundle.lineage["run_id"] == run.info.run_id
        assert model.bundle.lineage["corpus_digest"] == run.data.params["corpus_digest"]
        assert (folder / "README.md").read_text("utf-8").startswith("---\n")
    baseline, card = load_baseline(trained.project / "dist" / "baseline")
    assert baseline.logits(["Le bénéfice monte."]).shape == (1, 32)
    assert card["lineage"]["run_id"] == trained.run("baseline").info.run_id


def test_onnx_gives_what_torch_gives(trained):
    """Parity of the export, on the native checkpoint read back: measured, not assumed."""
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = trained.project / "dist" / "camembert"
    native = AutoModelForSequenceClassification.from_pretrained(folder / "hf").eval()
    model = Classifier.load(folder, precision="fp32")
    golden = [json.loads(x) for x in (folder / "golden.jsonl").read_text("utf-8").splitlines()]
    ours = model.logits([g["text"] for g in golden])
    with torch.no_grad():
        theirs = [
            native(input_ids=torch.tensor([g["input_ids"]])).logits[0].numpy() for g in golden
        ]
    worst = float(np.abs(ours - np.array(theirs)).max())
    assert worst <= 1e-4
    assert model.bundle.lineage["torch_onnx_difference"] <= 1e-4


def test_saved_frozen_model_answers_as_the_probe_that_was_scored(trained):
    """The head stands in for the logistic regression: the test predictions agree."""
    run = trained.run("frozen")
    table = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/predictions_test.json"))
    rows = {r[0]: dict(zip(table["columns"], r, strict=True)) for r in table["data"]}
    lines = (trained.project / "data" / "articles" / "F.jsonl").read_text("utf-8").splitlines()
    articles = [json.loads(line) for line in lines]
    model = Classifier.load(trained.project / "dist" / "frozen", precision="fp32")
    answers = model.predict([a["text"] for a in articles])
    for task in TASKS:
        agree = [
            p[task].label == rows[a["id"]][task] for a, p in zip(articles, answers, strict=True)
        ]
        assert np.mean(agree) >= 0.9


def test_nothing_unfinished_is_left(trained):
    left = [p for p in (trained.project / "build" / "runs").iterdir() if p.suffix != ".lock"]
    assert left == []
    assert {p.name for p in (trained.project / "dist").iterdir()} == {
        *("baseline", "frozen", "camembert"),
    }


def test_second_training_skips_the_corpus_and_registers_a_second_version(trained, capsys):
    manifest = trained.project / "build" / "corpus" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert main(["train", experiment(trained.project, "baseline"), *sets(SHRINK)]) == 0
    assert "unchanged, build skipped" in capsys.readouterr().out
    assert manifest.stat().st_mtime_ns == before
    model = trained.client.get_registered_model("presseco-baseline")
    versions = trained.client.search_model_versions("name='presseco-baseline'")
    assert sorted(int(v.version) for v in versions) == [1, 2]
    assert str(model.aliases["champion"]) == "1", "a new version takes the alias only when told to"


# --- predict ----------------------------------------------------------------------------------


def test_predict_writes_one_answer_a_line(trained, tmp_path, capsys):
    source = write_lines(
        tmp_path / "a.jsonl",
        [
            {"id": 7, "title": "Le CAC 40 chute", "text": "La Bourse de Paris a perdu 3 %."},
            {"id": "b", "text": "Le groupe embauche 300 personnes à Lyon."},
        ],
    )
    target = tmp_path / "out" / "b.jsonl"
    model = str(trained.project / "dist" / "camembert")
    code = main(["predict", "--model", model, "--input", str(source), "--output", str(target)])
    assert code == 0 and "2" in capsys.readouterr().out
    rows = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert [r["id"] for r in rows] == [7, "b"]
    taxonomy = read_taxonomy(trained.project / "configs" / "taxonomy.yaml")
    for row in rows:
        for task in TASKS:
            assert row[task]["label"] in taxonomy[task].ids
            assert 0 < row[task]["probability"] <= 1
    assert [p.name for p in target.parent.iterdir()] == ["b.jsonl"]


@pytest.mark.parametrize("form", ["models:/presseco@champion", "models:/presseco/1", "runs:/{run}"])
def test_predict_with_a_model_of_mlflow_answers_as_the_bundle(trained, tmp_path, monkeypatch, form):
    monkeypatch.chdir(trained.project)
    source = write_lines(tmp_path / "a.jsonl", [{"id": 1, "text": "Le pétrole monte à Londres."}])
    form = form.format(run=trained.run("camembert-mini").info.run_id)
    answers = []
    for i, model in enumerate((form, str(trained.project / "dist" / "camembert"))):
        target = tmp_path / f"{i}.jsonl"
        args = ["predict", "--model", model, "--input", str(source), "--output", str(target)]
        assert main(args) == 0
        answers.append(target.read_text("utf-8"))
    assert answers[0] == answers[1]


# --- another taxonomy -------------------------------------------------------------------------


def toy_project(template: Path, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The tiny project with two questions of its own, and no line of code for them."""
    project = Path(shutil.copytree(template, folder))
    tasks = {"humeur": ("grave", "gai"), "lieu": ("france", "monde", "inconnu")}
    label = {"definition_fr": "x", "definition_en": "x"}
    taxonomy = {
        "version": "toy",
        "tasks": [
            {
                "name": task,
                "question_fr": "?",
                "question_en": "?",
                "labels": [{"id": i, "display": i.title(), **label} for i in ids],
            }
            for task, ids in tasks.items()
        ],
    }
    (project / "toy.yaml").write_text(yaml.safe_dump(taxonomy), "utf-8")
    out = []
    for i, row in enumerate(rows):
        kept = {k: v for k, v in row.items() if k not in TASKS}
        mood = "grave" if row["sentiment"] == "negatif" else "gai"
        place = tasks["lieu"][i % 3] if i % 5 else None
        out.append(kept | {"humeur": mood, "lieu": place})
    write_lines(project / "toy" / "a.jsonl", out)
    return project


def test_another_taxonomy_needs_no_code(template, rows, tmp_path, capsys):
    project = toy_project(template, tmp_path / "project", rows)
    overrides = [
        *SHRINK,
        "corpus.taxonomy=toy.yaml",
        "corpus.articles=[toy]",
        "corpus.seeds=null",
        "tracking.register=false",
    ]
    assert main(["train", experiment(project, "camembert-mini"), *sets(overrides)]) == 0
    printed = capsys.readouterr().out
    assert "humeur" in printed and "lieu" in printed and "sector" not in printed
    model = Classifier.load(project / "dist" / "camembert")
    [answer] = model.predict(["Le groupe licencie 300 personnes à Lyon."])
    assert set(answer.answers) == {"humeur", "lieu"}
    assert answer["lieu"].label in ("france", "monde", "inconnu")
    assert answer["humeur"].display in ("Grave", "Gai")
    native = json.loads((project / "dist" / "camembert" / "hf" / "config.json").read_text("utf-8"))
    assert native["task_map"] == [
        ["humeur", ["grave", "gai"]],
        ["lieu", ["france", "monde", "inconnu"]],
    ]


# --- killed and resumed -----------------------------------------------------------------------


def test_killed_training_resumes_with_the_same_validation_metrics(template, tmp_path):
    """SIGKILL in the middle of fine-tuning; the same command goes on and ends the same."""
    overrides = [
        *SHRINK,
        "camembert.epochs=12",
        "camembert.patience=12",
        "camembert.checkpoint_seconds=0",
        "tracking.register=false",
    ]
    whole, cut = (Path(shutil.copytree(template, tmp_path / n)) for n in ("whole", "cut"))
    args = lambda p: ["train", experiment(p, "camembert-mini"), *sets(overrides)]  # noqa: E731
    process = subprocess.Popen(
        [sys.executable, "-m", "presseco", *args(cut)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    runs = cut / "build" / "runs"
    for _ in range(12_000):
        if any(runs.glob("*/checkpoint.safetensors")) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    assert not (cut / "dist").exists()
    [kept] = runs.glob("*/checkpoint.safetensors")
    with safe_open(kept, "pt") as f:
        step = json.loads(f.metadata()["progress"])["step"]
    assert step > 0

    assert main(args(whole)) == 0
    assert main(args(cut)) == 0
    first, second = (Trained(p, "", 0.0) for p in (whole, cut))
    killed = [r for r in second.runs() if r.info.status == "KILLED"]
    assert len(killed) == 2, "parent and child of the killed training"
    [resumed] = [
        r
        for r in second.runs()
        if r.info.status == "FINISHED" and r.info.run_name.startswith("camembert-mini")
    ]

    assert resumed.data.tags["resumed_at_step"] == str(step)
    assert "resumed_at_step" not in first.run("camembert-mini").data.tags

    def history(job: Trained, run: Any) -> list[tuple[int, float]]:
        return [
            (m.step, m.value)
            for m in job.client.get_metric_history(run.info.run_id, "validation.macro_f1")
        ]

    expected = history(first, first.run("camembert-mini"))
    assert len(expected) == 12 and history(second, resumed) == expected
    golden = [p / "dist" / "camembert" / "golden.jsonl" for p in (whole, cut)]
    assert golden[0].read_text("utf-8") == golden[1].read_text("utf-8")


REGISTER = """
import sys, mlflow
from pathlib import Path
from presseco import tracking
from presseco.registry import log_and_register
root = Path(sys.argv[1])
for turn in range(2):
    tracking.connect(root, "presseco")
    with tracking.run("r"):
        for step in range(30):
            mlflow.log_metrics({"a": 1.0, "b": 2.0}, step=step)
        log_and_register("baseline", "twice", root / "dist" / "baseline", ["sector"], "x")
"""


def test_two_processes_at_once_on_one_store(trained, tmp_path):
    """What two trainings write at the same time: runs, metrics, a model and its versions."""
    project = Path(shutil.copytree(trained.project, tmp_path / "project"))
    for file in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm"):
        (project / file).unlink(missing_ok=True)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", REGISTER, str(project)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    job = Trained(project, "", 0.0)
    runs = job.runs()
    assert [r.info.status for r in runs] == ["FINISHED"] * 4
    for r in runs:
        assert len(job.client.get_metric_history(r.info.run_id, "a")) == 30
    versions = job.client.search_model_versions("name='twice'")
    assert sorted(int(v.version) for v in versions) == [1, 2, 3, 4]
    assert {v.run_id for v in versions} == {r.info.run_id for r in runs}
