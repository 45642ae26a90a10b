"""The cascade: who answers what, the cut that keeps macro-F1, and models that do not fit together."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT, write_lines
from presseco.__main__ import main
from presseco.baseline import fit_baseline
from presseco.cascade import CASCADE, MARGIN, NEVER, Cascade, fingerprints, fit_cut, sureness
from presseco.classifier import Classifier
from presseco.config import read_config
from presseco.errors import BundleError, StoreError
from presseco.evaluate import confusion_matrix, macro_f1
from presseco.predict import predict_file
from presseco.taxonomy import MISSING, read_taxonomy

TASKS = ("sector", "event_type", "sentiment")
#: What training has and `presseco[cascade]` has not.
MISSING_PACKAGES = ("torch", "transformers", "mlflow", "pandas", "datasets", "matplotlib", "onnx")
EXPERIMENT = str(ROOT / "configs" / "experiment" / "camembert-mini.yaml")


@pytest.fixture(scope="module")
def classifier(tiny_bundle: Path) -> Classifier:
    return Classifier.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def fitted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], classifier: Classifier
) -> Path:
    """A baseline that knows its 120 articles, with a cut that about half of them reach."""
    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
    labels = np.array([[taxonomy.index(t, r[t]) for t in taxonomy.names] for r in rows])
    overrides = ["baseline.max_features=500", "baseline.c_grid=[4.0]"]
    config = read_config(ROOT / "configs" / "experiment" / "baseline.yaml", overrides).baseline
    texts = [r["text"] for r in rows]
    model = fit_baseline(texts, labels, texts, labels, task_map=taxonomy.task_map, config=config)
    folder = tmp_path_factory.mktemp("cascade") / "baseline"
    model.save(
        folder,
        temperatures=dict.fromkeys(TASKS, 1.0),
        thresholds=dict.fromkeys(TASKS, 0.5),
        lineage={"corpus_digest": "none"},
    )
    note = {"cut": 0.0, "models": fingerprints(folder, classifier.bundle)}
    (folder / CASCADE).write_text(json.dumps(note))
    sure = sureness(Cascade.load(folder, classifier).probabilities(texts))
    (folder / CASCADE).write_text(json.dumps({**note, "cut": float(np.median(sure))}))
    return folder


def test_the_sure_half_is_the_baselines(
    fitted: Path, classifier: Classifier, rows: list[dict[str, Any]]
) -> None:
    cascade = Cascade.load(fitted, classifier)
    texts = [r["text"] for r in rows]
    quick = cascade.probabilities(texts)
    alone = classifier.predict(texts)
    easy = sureness(quick) >= cascade.cut
    given = cascade.predict(texts)
    assert (cascade.seen, cascade.deflected) == (120, int(easy.sum()))
    assert 55 <= easy.sum() <= 65
    for i, p in enumerate(given):
        if not easy[i]:
            assert p.model == alone[i].model
            assert {t: p[t].label for t in TASKS} == {t: alone[i][t].label for t in TASKS}
            continue
        assert p.model == cascade.name and not p.truncated
        for task in classifier.bundle.tasks:
            q, answer = quick[task.name][i], p[task.name]
            assert answer.label == task.labels[int(q.argmax())]
            assert answer.display == task.display[int(q.argmax())]
            assert answer.probability == pytest.approx(float(q.max()))
            assert answer.abstained == (answer.probability < 0.5)
            assert list(answer.probabilities) == list(task.labels)


def test_title_counts_and_blank_texts_abstain(fitted: Path, classifier: Classifier) -> None:
    cascade = Cascade.load(fitted, classifier)
    cascade.cut = 0.0
    title, body = "Renault relève ses prévisions", "Le constructeur vise une marge de 6 %."
    apart, joined = cascade.predict([body, f"{title}\n{body}"], [title, None])
    assert apart == joined
    blank = cascade.predict(["…!?"])[0]
    assert all(a.abstained for a in blank.answers.values())
    assert cascade.predict([]) == []


def test_wrong_calls_have_the_classifiers_words(fitted: Path, classifier: Classifier) -> None:
    cascade = Cascade.load(fitted, classifier)
    with pytest.raises(TypeError, match="got one string"):
        cascade.predict("Brève.")
    with pytest.raises(ValueError, match="1 texts but 0 titles"):
        cascade.predict(["Brève."], [])


def test_cut_of_another_model_is_refused(
    fitted: Path, classifier: Classifier, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(fitted, tmp_path / "b"))
    card = json.loads((folder / "baseline.json").read_text("utf-8"))
    (folder / "baseline.json").write_text(json.dumps({**card, "c": {}}))
    with pytest.raises(BundleError, match=r"fitted with another baseline; .* presseco cascade"):
        Cascade.load(folder, classifier)
    (folder / CASCADE).write_text("{}")
    with pytest.raises(BundleError, match=r"cascade.json: cannot be read .* Fit it: presseco"):
        Cascade.load(folder, classifier)
    with pytest.raises(BundleError, match="no baseline to load"):
        Cascade.load(tmp_path / "nowhere", classifier)


def test_other_labels_are_refused(fitted: Path, classifier: Classifier, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fitted, tmp_path / "b"))
    card = json.loads((folder / "baseline.json").read_text("utf-8"))
    card["task_map"][0][1].reverse()
    (folder / "baseline.json").write_text(json.dumps(card))
    with pytest.raises(BundleError, match=r"tasks or labels differ .* one taxonomy"):
        Cascade.load(folder, classifier)


def random_models(n: int, quick_right: float, slow_right: float) -> tuple[Any, Any, Any]:
    """Three classes; the quick model is right when sure, up to `quick_right` of the time."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, (n, 1))
    sure = rng.uniform(0.34, 1, n)
    right = rng.random(n) < np.where(sure > 0.6, quick_right, 0.4)
    guess = np.where(right, truth[:, 0], (truth[:, 0] + 1) % 3)
    quick = np.full((n, 3), ((1 - sure) / 2)[:, None])
    quick[np.arange(n), guess] = sure
    theirs = np.where(rng.random(n) < slow_right, truth[:, 0], (truth[:, 0] + 1) % 3)
    return {"t": quick}, {"t": np.eye(3)[theirs]}, truth


def test_cut_gives_away_what_is_easy_and_keeps_macro_f1() -> None:
    quick, slow, truth = random_models(2000, quick_right=0.97, slow_right=0.9)
    found = fit_cut(quick, slow, truth)
    assert 0.5 < found.deflected < 0.85
    assert 0.35 < found.cut < 0.62
    assert found.cascade["t"] >= found.camembert["t"] - MARGIN
    easy = quick["t"].max(axis=1) >= found.cut
    guess = np.where(easy, quick["t"].argmax(axis=1), slow["t"].argmax(axis=1))
    again = float(macro_f1(confusion_matrix(truth[:, 0], guess, 3)))
    assert again == pytest.approx(found.cascade["t"])
    assert easy.mean() == found.deflected


def test_bad_baseline_gets_nothing() -> None:
    quick, slow, truth = random_models(500, quick_right=0.2, slow_right=0.9)
    found = fit_cut(quick, slow, truth)
    assert found.deflected < 0.02
    assert found.cascade["t"] >= found.camembert["t"] - MARGIN


def test_unknown_labels_do_not_count() -> None:
    quick, slow, truth = random_models(500, quick_right=0.97, slow_right=0.9)
    truth[::2] = MISSING
    found = fit_cut(quick, slow, truth)
    known = truth[:, 0] != MISSING
    alone = macro_f1(confusion_matrix(truth[known, 0], slow["t"].argmax(axis=1)[known], 3))
    assert found.camembert["t"] == pytest.approx(float(alone))
    assert NEVER > 1


def test_predict_with_a_cascade(
    fitted: Path, tiny_bundle: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"id": r["id"], "text": r["text"]} for r in rows])
    out = tmp_path / "out.jsonl"
    command = ["predict", "--model", str(tiny_bundle), "--input", str(source), "--output", str(out)]
    assert main([*command, "--cascade", str(fitted)]) == 0
    answers = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    want = Cascade.load(fitted, Classifier.load(tiny_bundle)).predict([r["text"] for r in rows])
    assert [a["id"] for a in answers] == [r["id"] for r in rows]
    for a, p in zip(answers, want, strict=True):
        assert {t: a[t]["label"] for t in TASKS} == {t: p[t].label for t in TASKS}


def test_part_of_a_run_without_cascade_is_not_continued_with_one(
    fitted: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"id": 1, "text": "Brève."}])
    out = tmp_path / "out.jsonl"
    bundle = Classifier.load(tiny_bundle)
    note = {
        "model": f"{bundle.bundle.name}@{bundle.bundle.version}",
        "precision": bundle.precision,
        "rows": 0,
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
    (tmp_path / "out.jsonl.part").write_text('{"id"')  # killed in its first line
    (tmp_path / "out.jsonl.part.json").write_text(json.dumps(note))
    with pytest.raises(StoreError, match="another cascade"):
        predict_file(str(tiny_bundle), source, out, cascade=fitted)
    assert predict_file(str(tiny_bundle), source, out) == 1  # a note of before there were cascades


def test_models_of_another_corpus_are_not_fitted(
    fitted: Path, tiny_bundle: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(fitted, project / "baseline"))
    (folder / CASCADE).unlink()
    experiment = str(project / "configs" / "experiment" / "camembert-mini.yaml")
    command = ["cascade", "--model", str(tiny_bundle), "--baseline", str(folder)]
    command += ["--experiment", experiment, "--set", "corpus.validation_writers=[E]"]
    command += ["--set", "corpus.test_writers=[F]"]
    assert main(command) == 1
    assert "its validation articles may be known to them" in capsys.readouterr().err
    assert not (folder / CASCADE).exists()
    assert main([*command, "--other-corpus"]) == 0
    out = capsys.readouterr().out
    assert out.count("macro-F1") == 3
    fit = json.loads((folder / CASCADE).read_text("utf-8"))
    assert f"answers {fit['validation']['deflected']:.1%} of the validation articles" in out
    # This baseline knows the answers by heart, the tiny CamemBERT guesses: it gets everything.
    assert fit["validation"]["deflected"] == 1.0
    assert Cascade.load(folder, Classifier.load(tiny_bundle)).predict(["Brève."])


def test_needs_only_its_extra(fitted: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"id": 1, "text": "Brève."}])
    code = f"""
import sys
from pathlib import Path

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING_PACKAGES!r}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
from presseco.predict import predict_file
predict_file({str(tiny_bundle)!r}, Path({str(source)!r}), Path({str(tmp_path / "o.jsonl")!r}),
             cascade=Path({str(fitted)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
