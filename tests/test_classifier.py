"""The runtime: right answers in any batch, thread and company, and a self-test that can fail."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from presseco.bundle import MANIFEST
from presseco.classifier import BATCH_TOKENS, Classifier, Prediction, _batches
from presseco.errors import BundleError

RUNTIME = ("__init__", "bundle", "classifier", "errors", "text")


@pytest.fixture(scope="module")
def classifier(tiny_bundle: Path) -> Classifier:
    return Classifier.load(tiny_bundle, precision="fp32", threads=1)


@pytest.fixture(scope="module")
def golden(tiny_bundle: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tiny_bundle / "golden.jsonl").open(encoding="utf-8")]


def reseal(folder: Path, name: str) -> None:
    """Give a changed file its right checksum, so that only the self-test can find the change."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")


def test_runtime_imports_three_packages_only() -> None:
    allowed = {"numpy", "onnxruntime", "tokenizers", "presseco", *sys.stdlib_module_names}
    for module in RUNTIME:
        tree = ast.parse((ROOT / "src" / "presseco" / f"{module}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {n.split(".")[0] for n in names} <= allowed, module


def test_loads_where_training_packages_are_missing(tiny_bundle: Path) -> None:
    code = (
        "import sys\n"
        "for n in ('torch', 'transformers', 'mlflow', 'sklearn', 'pandas', 'pydantic', 'yaml'):\n"
        "    sys.modules[n] = None\n"
        "from presseco import Classifier\n"
        f"print(Classifier.load({str(tiny_bundle)!r}).predict(['Brève.'])[0]['sector'].label)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_answers_are_those_of_torch(
    classifier: Classifier, tiny_model: Any, golden: list[dict[str, Any]]
) -> None:
    import torch

    ours = classifier.logits([g["text"] for g in golden])
    with torch.no_grad():
        theirs = [
            tiny_model(input_ids=torch.tensor([g["input_ids"]])).logits[0].numpy() for g in golden
        ]
    assert np.abs(ours - np.array(theirs)).max() <= 1e-5 * np.abs(theirs).max()


def test_probabilities_are_calibrated_softmax(
    classifier: Classifier, golden: list[dict[str, Any]]
) -> None:
    texts = [g["text"] for g in golden]
    for p, g in zip(classifier.predict(texts), golden, strict=True):
        start = 0
        for task in classifier.bundle.tasks:
            z = np.array(g["logits"]["fp32"][start : start + len(task.labels)]) / task.temperature
            want = np.exp(z) / np.exp(z).sum()
            answer = p[task.name]
            assert list(answer.probabilities) == list(task.labels)
            np.testing.assert_allclose(list(answer.probabilities.values()), want, atol=1e-4)
            assert answer.label == task.labels[int(want.argmax())]
            assert answer.abstained == (answer.probability < task.threshold)
            start += len(task.labels)


def test_order_and_batch_do_not_matter(
    classifier: Classifier, golden: list[dict[str, Any]]
) -> None:
    texts = [g["text"] for g in golden]
    together = classifier.predict(texts)
    alone = [classifier.predict([t])[0] for t in texts]
    backwards = classifier.predict(texts[::-1], batch=3)[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        for task in a.answers:
            for other in (b, c):
                assert a[task].label == other[task].label
                assert a[task].probability == pytest.approx(other[task].probability, abs=1e-4)


def test_title_apart_is_title_in_front(classifier: Classifier) -> None:
    title, body = "Renault relève ses prévisions", "Le constructeur vise une marge de 6 %."
    apart = classifier.predict([body], [title])[0]
    joined = classifier.predict([f"{title}\n{body}"])[0]
    repeated = classifier.predict([f"{title}\n{body}"], [title])[0]
    assert apart == joined == repeated


def test_truncation_is_said(classifier: Classifier) -> None:
    short, long = classifier.predict(["Une brève.", "La Bourse monte. " * 100])
    assert (short.truncated, long.truncated) == (False, True)


@pytest.mark.parametrize("text", ["", " \n", "…!?", "\x00\u200b", "😀😀"])
def test_text_without_words_abstains(classifier: Classifier, text: str) -> None:
    prediction = classifier.predict([text])[0]
    assert all(a.abstained for a in prediction.answers.values())


def test_no_texts_no_answers(classifier: Classifier) -> None:
    assert classifier.predict([]) == []


@pytest.mark.parametrize(
    ("texts", "titles", "error", "message"),
    [
        ("un texte", None, TypeError, "got one string"),
        ([1], None, TypeError, "must be a str; got int"),
        ([None], None, TypeError, "must be a str; got NoneType"),
        (["a"], [3], TypeError, "must be a str; got int"),
        (["a"], ["b", "c"], ValueError, "1 texts but 2 titles"),
    ],
)
def test_wrong_arguments(
    classifier: Classifier, texts: Any, titles: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        classifier.predict(texts, titles)


def test_unknown_precision(tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="expected 'auto', 'fp32' or 'int8'"):
        Classifier.load(tiny_bundle, precision="fp16")


def test_threads_share_one_classifier(classifier: Classifier, golden: list[dict[str, Any]]) -> None:
    texts = [g["text"] for g in golden]
    want = [p.to_dict() for p in classifier.predict(texts)]

    def work(shift: int) -> bool:
        turned = texts[shift:] + texts[:shift]
        got = [p.to_dict() for p in classifier.predict(turned)]
        labels = [{t: a["label"] for t, a in d.items()} for d in got]
        expected = [{t: a["label"] for t, a in d.items()} for d in want[shift:] + want[:shift]]
        return labels == expected

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, [i % len(texts) for i in range(64)]))


def test_int8_is_near_fp32_and_smaller(tiny_bundle: Path, golden: list[dict[str, Any]]) -> None:
    fast = Classifier.load(tiny_bundle, precision="int8", threads=1)
    texts = [g["text"] for g in golden]
    exact = np.array([g["logits"]["fp32"] for g in golden])
    assert np.abs(fast.logits(texts) - exact).mean() <= 0.06 * np.abs(exact).mean()
    size = [(tiny_bundle / f"model{x}.onnx").stat().st_size for x in (".int8", "")]
    assert size[0] < 0.5 * size[1]


def test_auto_takes_int8(tiny_bundle: Path) -> None:
    assert Classifier.load(tiny_bundle, threads=1).precision == "int8"


def damage_golden(folder: Path, precision: str) -> None:
    path = folder / "golden.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    shortest = min(rows, key=lambda g: len(g["input_ids"]))
    shortest["logits"][precision][0] += 1.0
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    reseal(folder, "golden.jsonl")


def test_int8_that_is_off_gives_way_to_fp32(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    damage_golden(folder, "int8")
    with caplog.at_level(logging.WARNING, logger="presseco"):
        assert Classifier.load(folder, threads=1).precision == "fp32"
    assert "int8: golden logits differ by" in caplog.text
    assert "using fp32" in caplog.text
    with pytest.raises(BundleError, match="int8: golden logits differ"):
        Classifier.load(folder, precision="int8", threads=1)


def test_operator_that_this_onnxruntime_lacks(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import onnx

    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    model = onnx.load(folder / "model.int8.onnx")
    next(n for n in model.graph.node if n.op_type == "BiasGelu").op_type = "NoSuchOperator"
    onnx.save(model, folder / "model.int8.onnx")
    reseal(folder, "model.int8.onnx")
    with caplog.at_level(logging.WARNING, logger="presseco"):
        assert Classifier.load(folder, threads=1).precision == "fp32"
    assert "cannot run it" in caplog.text


def test_bundle_without_int8(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    del manifest["models"]["int8"]
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    assert Classifier.load(folder, threads=1).precision == "fp32"
    with pytest.raises(BundleError, match=r"has no int8 model; it has fp32\. [^;]*$"):
        Classifier.load(folder, precision="int8", threads=1)


def test_wrong_fp32_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    damage_golden(folder, "fp32")
    with pytest.raises(BundleError, match=r"fp32: golden logits differ by .* allowed 0.001"):
        Classifier.load(folder, precision="fp32", threads=1)


def test_golden_text_may_hold_a_line_separator(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    path = folder / "golden.jsonl"
    text = path.read_text("utf-8")
    assert r"\n" in text
    path.write_text(text.replace(r"\n", "\u2028"), "utf-8")  # prepared, the same texts
    reseal(folder, "golden.jsonl")
    assert Classifier.load(folder, threads=1).precision == "int8"


def test_other_tokenizer_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    reseal(folder, "tokenizer.json")
    with pytest.raises(BundleError, match="gives other tokens than at export"):
        Classifier.load(folder, threads=1)


@given(st.lists(st.integers(2, 512), max_size=80), st.integers(1, 40))
def test_batches_hold_every_text_once(lengths: list[int], batch: int) -> None:
    batches = list(_batches(lengths, batch))
    assert sorted(i for rows in batches for i in rows) == list(range(len(lengths)))
    for rows in batches:
        widest = lengths[rows[-1]]
        assert widest == max(lengths[i] for i in rows)
        assert len(rows) <= batch
        assert len(rows) == 1 or widest * len(rows) <= BATCH_TOKENS


def valid(prediction: Prediction) -> bool:
    return all(
        abs(sum(a.probabilities.values()) - 1) < 1e-6
        and a.label in a.probabilities
        and 0 <= a.probability <= 1
        for a in prediction.answers.values()
    )


HOSTILE = st.one_of(
    st.text(st.characters(), max_size=300),  # every code point, lone surrogates too
    st.text(
        st.sampled_from("\x00\x07\x1b\u202e\u200d\ufeff\ud800\udfff\r\n\t’«»€ aé"), max_size=200
    ),
    st.text(st.characters(min_codepoint=0x590, max_codepoint=0x6FF), max_size=200),
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=200),
    st.text(st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF), max_size=100),
    st.text(st.characters(categories=["Mn", "Cf", "Co", "Cn"]), max_size=100),
    st.from_regex(
        r"(<[a-z]{1,8}( on[a-z]+='[^']{0,20}')?>|</[a-z]+>|&[a-z]+;){1,30}", fullmatch=True
    ),
    st.builds(lambda c, n: c * n, st.characters(), st.integers(1, 100_000)),
)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=1, max_size=16), title=st.none() | HOSTILE)
def test_hostile_strings_get_valid_answers(
    classifier: Classifier, texts: list[str], title: str | None
) -> None:
    predictions = classifier.predict(texts, [title] * len(texts))
    assert len(predictions) == len(texts)
    assert all(map(valid, predictions))
    json.dumps([p.to_dict() for p in predictions])


@pytest.mark.parametrize("piece", ["a", "\x00", "é", "الاقتصاد ", "<p>", "\ud800", "e\u0301", " "])
def test_five_megabytes_on_one_line(classifier: Classifier, piece: str) -> None:
    assert valid(classifier.predict([piece * (5_000_000 // len(piece))])[0])


#: Ranges of code points that strings are drawn from: control, Latin, Arabic and Hebrew, combining,
#: formats and spaces, CJK, surrogates, private, emoji, anything.
RANGES = [(0, 32), (32, 384), (0x590, 0x700), (0x300, 0x370), (0x2000, 0x2070)]
RANGES += [(0x4E00, 0xA000), (0xD800, 0xE000), (0xE000, 0xE100), (0x1F300, 0x1FB00), (0, 0x110000)]


@pytest.mark.services
@pytest.mark.timeout(900)
def test_a_hundred_thousand_hostile_strings(tiny_bundle: Path) -> None:
    """Drawn with a fixed seed: hypothesis, which the fast test uses, needs an hour for as many."""
    classifier, rng = Classifier.load(tiny_bundle), np.random.default_rng(0)
    for _ in range(1_000):
        texts = []
        for _ in range(100):
            low, high = RANGES[rng.integers(len(RANGES))]
            points = rng.integers(low, high, rng.integers(0, 120)).tolist()
            texts.append("".join(map(chr, points)) + ("" if rng.random() < 0.5 else " une banque"))
        assert all(map(valid, classifier.predict(texts)))
