"""`presseco drift`: the same articles are no drift, others are, and chance is not taken for drift."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import ROOT, write_lines
from presseco.__main__ import main
from presseco.bundle import MANIFEST, read_bundle
from presseco.classifier import Classifier
from presseco.drift import DRIFT, RESAMPLES, Drift, drift, exit_code, judge, stability
from presseco.errors import NO, ArticleError, BundleError
from presseco.reference import REFERENCE, make_reference, new_share, read_reference, words

TASKS = ("sector", "event_type", "sentiment")
ARTICLES = ROOT / "data" / "articles"


def read(name: str) -> list[dict[str, Any]]:
    lines = (ARTICLES / name).read_text("utf-8").splitlines()
    return [{k: json.loads(line)[k] for k in ("id", "title", "text")} for line in lines]


def with_reference(bundle: Path, folder: Path, data: Any) -> Path:
    """Copy a bundle with another reference, or none."""
    copy = Path(shutil.copytree(bundle, folder / "bundle"))
    manifest = json.loads((copy / MANIFEST).read_text("utf-8"))
    (copy / REFERENCE).unlink()
    del manifest["files"][REFERENCE]
    if data is not None:
        raw = json.dumps(data).encode()
        (copy / REFERENCE).write_bytes(raw)
        entry = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
        manifest["files"][REFERENCE] = entry
    (copy / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return copy


@pytest.fixture(scope="module")
def shuffled() -> list[dict[str, Any]]:
    rows = read("first-600.jsonl")
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


@pytest.fixture(scope="module")
def watched(
    tiny_bundle: Path, shuffled: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny bundle with a reference of 200 articles, and the words of 200 others."""
    held_out, train = ([r["text"] for r in some] for some in (shuffled[:200], shuffled[200:400]))
    classifier = Classifier.load(tiny_bundle, threads=1)
    given = classifier.predict(held_out)
    p = {t: np.array([list(g[t].probabilities.values()) for g in given]) for t in TASKS}
    thresholds = {t.name: t.threshold for t in classifier.bundle.tasks}
    data = make_reference(p, thresholds, held_out, train)
    return with_reference(tiny_bundle, tmp_path_factory.mktemp("watched"), data)


@pytest.fixture(scope="module")
def outside(watched: Path, tmp_path_factory: pytest.TempPathFactory) -> Drift:
    folder = tmp_path_factory.mktemp("outside")
    return drift(str(watched), ARTICLES / "hors-sujet-HSB.jsonl", folder, threads=1)


def verdicts(found: Drift) -> dict[str, str]:
    return {a.name: a.verdict for a in found.aspects}


def test_articles_like_those_of_training_are_no_drift(
    watched: Path, shuffled: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "same.jsonl", shuffled[400:])
    found = drift(str(watched), source, tmp_path / "out", threads=1)
    assert (found.verdict, found.articles, found.reference_articles) == ("no drift", 200, 200)
    assert len(found.aspects) == 3 * 3 + 2
    assert set(verdicts(found).values()) == {"no drift"}


def test_texts_that_are_no_business_news_drift(outside: Drift) -> None:
    assert outside.verdict == "drift"
    assert verdicts(outside)["vocabulary"] == "drift"
    [aspect] = [a for a in outside.aspects if a.name == "vocabulary"]
    assert re.search(r"index \d\.\d\d .*: new words 2\d\.\d%, now 3\d\.\d%", aspect.reason)
    assert {"dimanche", "maire"} & {w.word for w in outside.words}
    assert all(w.now > w.before and w.z > 0 for w in outside.words)


def test_one_trade_only_drifts(watched: Path, tmp_path: Path) -> None:
    """Articles of one trade: its words stand out, whatever an untrained model answers."""
    every = [json.loads(x) for p in sorted(ARTICLES.glob("?.jsonl")) for x in p.open("rb")]
    health = [a for a in every if a["sector"] == "sante"][:120]
    rows = [{k: a[k] for k in ("id", "title", "text")} for a in health]
    found = drift(str(watched), write_lines(tmp_path / "s.jsonl", rows), tmp_path / "o", threads=1)
    assert found.verdict != "no drift"
    assert {"patients", "traitement", "hôpital", "médicament"} & {w.word for w in found.words[:12]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_reads_what_predict_reads(watched: Path, tmp_path: Path, suffix: str) -> None:
    rows, source = read("hors-sujet-HSB.jsonl")[:60], tmp_path / f"in{suffix}"
    table = pa.Table.from_pylist(rows)
    if suffix == ".csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(table, source)
    else:
        pq.write_table(table, source)
    assert drift(str(watched), source, tmp_path / "out", threads=1).articles == 60


def test_report_is_one_file_that_asks_nobody(
    outside: Drift, watched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = ARTICLES / "hors-sujet-HSB.jsonl", tmp_path / "out"
    command = ["drift", "--model", str(watched), "--input", str(source), "--output", str(out)]
    assert main(command) == NO
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"drift in {outside.articles} articles, report in {out}/drift.html"
    assert len(lines) == len(outside.aspects) + 1
    page = (out / "drift.html").read_text("utf-8")
    assert "default-src 'none'" in page and "<script" not in page
    assert not re.findall(r"(?:src|href)=[\"'](?!#)[^\"']*", page)
    assert page.count("<svg") == len(outside.aspects)
    for a in outside.aspects:
        assert a.name in page and a.verdict in page
    data = json.loads((out / "drift.json").read_text("utf-8"))
    assert data["verdict"] == "drift"
    assert [a["name"] for a in data["aspects"]] == [a.name for a in outside.aspects]
    for a in data["aspects"]:
        assert len(a["bins"]) == len(a["before"]) == len(a["now"])
        assert sum(a["before"]) == pytest.approx(1, abs=0.01) == pytest.approx(sum(a["now"]))
    assert main([*command, "--fail-on", "never"]) == 0


@pytest.mark.parametrize(
    ("verdict", "fail_on", "code"),
    [
        ("no drift", "watch", 0),
        ("watch", "drift", 0),
        ("watch", "watch", NO),
        ("drift", "watch", NO),
        ("drift", "drift", NO),
        ("drift", "never", 0),
    ],
)
def test_exit_code(verdict: str, fail_on: str, code: int) -> None:
    assert exit_code(verdict, fail_on) == code


def test_chance_is_not_taken_for_drift() -> None:
    """Of 300 batches of 100 of the same 15 labels: on average no index, hardly any alarm."""
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(15, 2.0))
    values, alarms = [], 0
    for _ in range(300):
        before, now = rng.multinomial(1000, shares), rng.multinomial(100, shares)
        value, interval = stability(before.astype(float), now.astype(float))
        values.append(value)
        alarms += judge(value, interval)[0] != "no drift"
    assert np.mean(values) < 0.04
    assert alarms / 300 < 0.05


def test_index_is_the_known_one_in_large_samples() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    want = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    value, (low, high) = stability(p * 1e5, q * 1e5)
    assert value == pytest.approx(want, abs=1e-3)
    assert low < want < high and high - low < 0.05
    assert judge(value, (low, high))[0] == "drift"


def test_interval_holds_the_true_index() -> None:
    rng, hits = np.random.default_rng(2), 0
    p, q = np.array([0.25, 0.25, 0.25, 0.25]), np.array([0.4, 0.3, 0.2, 0.1])
    true = float(((q - p) * np.log(q / p)).sum())
    for _ in range(200):
        before, now = rng.multinomial(600, p), rng.multinomial(300, q)
        _, (low, high) = stability(before.astype(float), now.astype(float))
        hits += low <= true <= high
    assert hits / 200 > 0.9
    assert RESAMPLES == 1000


def test_large_but_uncertain_is_said() -> None:
    assert judge(0.3, (0.02, 0.9))[0] == "watch"
    verdict, why = judge(0.05, (0.0, DRIFT))
    assert verdict == "no drift" and "too few articles to exclude drift" in why


def test_too_few_articles(watched: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "few.jsonl", read("hors-sujet-HSB.jsonl")[:9])
    with pytest.raises(ArticleError, match="9 articles; a comparison needs 50 or more"):
        drift(str(watched), source, tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


def test_bundle_without_reference_still_loads_and_says_what_to_do(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    old = with_reference(tiny_bundle, tmp_path, None)
    assert Classifier.load(old, threads=1).predict(["Brève."])
    with pytest.raises(BundleError, match=r"has no reference.json.*Train it again: make train"):
        read_reference(read_bundle(old))
    (old / REFERENCE).write_text("{}")  # laid beside, not in the manifest: not trusted
    with pytest.raises(BundleError, match=r"has no reference.json"):
        read_reference(read_bundle(old))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(version=2), "version 2, this presseco reads 1"),
        (lambda d: d.pop("length"), "missing or malformed"),
        (lambda d: d["length"].update(counts=[1]), "1 counts for"),
        (lambda d: d["tasks"].pop("sector"), "does not fit the labels of task 'sector'"),
        (lambda d: d["tasks"]["sector"]["labels"].pop(), "does not fit the labels"),
        (lambda d: d.update(vocabulary=[]), "malformed"),
    ],
)
def test_broken_reference_is_refused(
    tiny_bundle: Path, tmp_path: Path, edit: Callable[[Any], Any], message: str
) -> None:
    data = json.loads((tiny_bundle / REFERENCE).read_text("utf-8"))
    edit(data)
    with pytest.raises(BundleError, match=message):
        read_reference(read_bundle(with_reference(tiny_bundle, tmp_path, data)))


def test_reference_travels_with_the_bundle_and_holds_no_article(
    tiny_bundle: Path, rows: list[dict[str, Any]]
) -> None:
    raw = (tiny_bundle / REFERENCE).read_text("utf-8")
    manifest = json.loads((tiny_bundle / MANIFEST).read_text("utf-8"))
    assert manifest["files"][REFERENCE]["sha256"] == hashlib.sha256(raw.encode()).hexdigest()
    reference = read_reference(read_bundle(tiny_bundle))
    assert (reference.articles, reference.train_articles) == (40, 80)
    for t in reference.tasks.values():
        assert sum(t.labels) == sum(t.confidence.counts) == 40
    assert sum(reference.length.counts) == sum(reference.new_words.counts) == 40
    assert min(reference.vocabulary.values()) >= 2
    assert not [w for w in reference.vocabulary if not re.fullmatch(r"[^\W\d_]{2,}", w)]
    assert json.loads(raw).keys() == {
        *("version", "articles", "tasks", "length", "new_words", "train_articles", "vocabulary")
    }


def test_reference_fits_its_published_schema(tiny_bundle: Path) -> None:
    schema = json.loads((ROOT / "docs" / "bundle.schema.json").read_text("utf-8"))
    data = json.loads((tiny_bundle / REFERENCE).read_text("utf-8"))
    part = {"$defs": schema["$defs"], "$ref": "#/$defs/reference"}
    validator = jsonschema.Draft202012Validator(part)
    assert not list(validator.iter_errors(data))
    for key in data:
        assert list(validator.iter_errors({k: v for k, v in data.items() if k != key})), key


def test_words_and_new_words() -> None:
    assert words("L'été 2026 : Danone, à 3 % !") == ["été", "danone"]
    assert new_share(["a", "b", "b", "c"], {"a": 2, "b": 3}) == 0.25
    assert new_share([], {}) == 0.0
