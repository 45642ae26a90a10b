"""`presseco predict`: any format, in order, again after a kill, and clear words for bad input."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import write_lines
from presseco.__main__ import main
from presseco.classifier import Classifier
from presseco.errors import ArticleError, StoreError
from presseco.predict import CHUNK, predict_file

ROWS = [
    {"id": 1, "text": "Le chiffre d'affaires a progressé de 4 %.", "title": "Rexel, en hausse"},
    {"id": 2, "text": 'Grève "illimitée",\nà la raffinerie.', "title": None},
    {"id": 3, "text": "", "title": "Danone lance un yaourt"},
]


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"in{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(
                out, ["id", "title", "text"], delimiter="," if suffix == ".csv" else "\t"
            )
            writer.writeheader()
            writer.writerows(rows)
    else:
        write_lines(path, rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        {"id": r.pop("id")}
        | {t: a["label"] for t, a in r.items()}
        | {f"{t}_probability": a["probability"] for t, a in r.items()}
        | {f"{t}_abstained": a["abstained"] for t, a in r.items()}
        for r in rows
    ]


@pytest.mark.parametrize("target", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("source", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_in_and_out(
    tiny_bundle: Path, tmp_path: Path, source: str, target: str
) -> None:
    out = tmp_path / f"out{target}"
    assert predict_file(str(tiny_bundle), write(tmp_path, source, ROWS), out) == 3
    want = Classifier.load(tiny_bundle).predict(
        [str(r["text"]) for r in ROWS], [r["title"] for r in ROWS]
    )
    for got, row, p in zip(read(out), ROWS, want, strict=True):
        assert str(got["id"]) == str(row["id"])
        for task, answer in p.answers.items():
            assert got[task] == answer.label
            assert float(got[f"{task}_probability"]) == pytest.approx(answer.probability, abs=2e-2)
            assert str(got[f"{task}_abstained"]) == str(answer.abstained)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"in{source}", out.name])


def test_whole_number_ids_stay_numbers_in_parquet(tiny_bundle: Path, tmp_path: Path) -> None:
    source = write(tmp_path, ".jsonl", ROWS)
    predict_file(str(tiny_bundle), source, tmp_path / "a.parquet")
    assert [r["id"] for r in read(tmp_path / "a.parquet")] == [1, 2, 3]
    mixed = write(tmp_path, ".jsonl", [*ROWS, {"id": "x", "text": "a"}])
    predict_file(str(tiny_bundle), mixed, tmp_path / "b.parquet")
    assert [r["id"] for r in read(tmp_path / "b.parquet")] == ["1", "2", "3", "x"]


def test_empty_input(tiny_bundle: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [])
    for suffix in (".jsonl", ".csv", ".parquet"):
        assert predict_file(str(tiny_bundle), source, tmp_path / f"out{suffix}") == 0
        assert read(tmp_path / f"out{suffix}") == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1, "text": "a"}\n{', r"a.jsonl:2: broken JSON"),
        ("a.jsonl", b"[1]", r"a.jsonl:1: expected an object with 'id', 'text'"),
        ("a.jsonl", b'{"text": "a"}', r"a.jsonl:1: expected 'id'"),
        ("a.jsonl", b'{"id": 1, "text": 3}', r"must be strings, found int"),
        ("a.jsonl", b'{"id": 1, "text": "a", "title": []}', r"must be strings, found list"),
        ("a.jsonl", b'{"id": 1, "text": " "}', r"article 1 has no text"),
        ("a.jsonl", b'{"id": 1, "text": "\xe9"}', r"not UTF-8"),
        ("a.csv", b"id,texte\n1,a\n", r"a.csv: no column text; found id, texte"),
        ("a.csv", b"id,text\n1,a,b\n", r"a.csv:2: the row has another number of fields"),
        ("a.csv", b'id,text\n1,"a\n', r"broken CSV"),
        ("a.csv", b"", r"no column id and text; found none"),
        ("a.parquet", b"PAR1", r"cannot be read as parquet"),
    ],
)
def test_bad_input_is_named(
    tiny_bundle: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArticleError, match=message):
        predict_file(str(tiny_bundle), tmp_path / name, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_missing_input_is_said_before_the_model_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ArticleError, match="no such file"):
        predict_file("no-model", tmp_path / "no.jsonl", tmp_path / "out.jsonl")


def test_output_that_would_destroy_something_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"id": 1, "text": "Une usine ouvre à Lens."}\n', "utf-8")
    for target, what in ((source, "the input itself"), (tmp_path, "a folder")):
        with pytest.raises(StoreError, match=what):
            predict_file("no-model-is-loaded", source, target)
    assert source.read_text("utf-8").startswith('{"id": 1')


def test_goes_on_where_a_killed_run_stopped(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [{"id": i, "text": f"Brève numéro {i}."} for i in range(3 * CHUNK)]
    bad = [*rows[: 2 * CHUNK + 5], {"id": "bad"}]
    source, target = write_lines(tmp_path / "in.jsonl", bad), tmp_path / "out.jsonl"
    with pytest.raises(ArticleError):
        predict_file(str(tiny_bundle), source, target)
    part = target.with_name("out.jsonl.part")
    assert len(part.read_text("utf-8").splitlines()) == 2 * CHUNK
    with part.open("a") as f:
        f.write('{"id": "half a li')
    write_lines(source, rows)  # the reader mended the line
    marked = part.read_text("utf-8").replace('"id": 0,', '"id": "kept",', 1)
    part.write_text(marked, "utf-8")
    assert predict_file(str(tiny_bundle), source, target) == 3 * CHUNK
    ids = [r["id"] for r in read(target)]
    assert ids == ["kept", *range(1, 3 * CHUNK)]


def test_second_run_on_one_output_is_refused_and_the_first_is_whole(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write(tmp_path, ".jsonl", ROWS), tmp_path / "out.jsonl"
    classify, tried = Classifier.predict, []

    def meanwhile(self: Classifier, *texts: Any) -> Any:
        monkeypatch.undo()
        with pytest.raises(StoreError, match=r"another presseco predict is writing .*out\.jsonl"):
            predict_file(str(tiny_bundle), source, target)
        tried.append(target.exists())
        return classify(self, *texts)

    monkeypatch.setattr(Classifier, "predict", meanwhile)
    assert predict_file(str(tiny_bundle), source, target) == 3
    assert tried == [False] and [r["id"] for r in read(target)] == [1, 2, 3]
    assert predict_file(str(tiny_bundle), source, target) == 3  # nobody holds it any more
    # Killed between making the part and its first answer.
    target.with_name("out.jsonl.part").touch()
    assert predict_file(str(tiny_bundle), source, target) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_part_of_another_input_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [{"id": i, "text": f"Brève {i}."} for i in range(CHUNK)]
    source = write_lines(tmp_path / "in.jsonl", [*rows, {"id": "bad"}])
    target = tmp_path / "out.jsonl"
    with pytest.raises(ArticleError):
        predict_file(str(tiny_bundle), source, target)
    for other in ([*rows[:-1], {"id": CHUNK - 1, "text": "Autre."}], rows[1:], rows[:1], []):
        path = write_lines(tmp_path / "other.jsonl", other)
        with pytest.raises(StoreError, match=r"another input. Remove it"):
            predict_file(str(tiny_bundle), path, target)
    target.with_name("out.jsonl.part.json").unlink()
    with pytest.raises(StoreError, match=r"another model, precision, input. Remove it"):
        predict_file(str(tiny_bundle), source, target)
    assert len(target.with_name("out.jsonl.part").read_text("utf-8").splitlines()) == CHUNK


def test_command_prints_one_line(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write(tmp_path, ".csv", ROWS), tmp_path / "out.csv"
    arguments = ["--model", str(tiny_bundle), "--input", str(source), "--output", str(target)]
    assert main(["predict", *arguments]) == 0
    assert capsys.readouterr().out == f"3 articles classified in {target}\n"
    assert main(["predict", *arguments[:2], "--input", "no.csv", *arguments[4:]]) == 1
    assert capsys.readouterr().err.startswith("presseco predict: no.csv: no such file")


@pytest.mark.services
@pytest.mark.timeout(900)
def test_a_hundred_thousand_rows_in_constant_memory(tiny_bundle: Path, tmp_path: Path) -> None:
    """Killed on the way and started again; memory of the second run stays under 400 MB."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with source.open("w") as f:
        for i in range(100_000):
            f.write(json.dumps({"id": i, "text": f"Brève {i} : le titre gagne {i % 9} %."}) + "\n")
    command = [sys.executable, "-m", "presseco", "predict", "--model", str(tiny_bundle)]
    command += ["--input", str(source), "--output", str(target)]
    first = subprocess.Popen(command, cwd=tmp_path)
    part = tmp_path / "out.jsonl.part"
    while not part.exists() or part.stat().st_size < 2_000_000:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not target.exists()
    second = subprocess.Popen(command, cwd=tmp_path)
    # Sampled, not ru_maxrss: that one starts from the memory of the process that forks, this pytest.
    watched, peak = psutil.Process(second.pid), 0
    while second.poll() is None:
        with contextlib.suppress(psutil.Error):
            peak = max(peak, watched.memory_info().rss)
        time.sleep(0.05)
    assert second.returncode == 0
    assert 20e6 < peak < 400e6
    with target.open() as lines:
        assert [json.loads(line)["id"] for line in lines] == list(range(100_000))
