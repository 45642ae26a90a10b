"""Cutting files into pieces: every kind of file, places to go on from, and what cannot be cut."""

from __future__ import annotations

import csv
import json
import os
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from presseco.document import MAX_BYTES
from presseco.errors import SourceError
from presseco.read import listing, pieces

ROWS = [{"text": f'Article {i} à lire ; « oui », "non"\nsuite', "n": i} for i in range(1, 8)]


def entry(path: Path):
    return next(listing(path))


def cut(path: Path, offset: int = 0, position: int = 0):
    found = list(pieces(entry(path), offset, position))
    assert found[-1].final and not any(p.final for p in found[:-1])
    return found[:-1]


def write_csv(path: Path, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as f:
        out = csv.DictWriter(f, ["text", "n"], delimiter=delimiter)
        out.writeheader()
        out.writerows(ROWS)
    return path


def write_kind(folder: Path, kind: str) -> Path:
    path = folder / f"press.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
    else:
        write_csv(path, "\t" if kind == "tsv" else ",")
    return path


def text_of(piece) -> str:
    return (json.loads(piece.body) if piece.kind == "json" else piece.fields)["text"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_row_is_a_piece_and_reading_goes_on_from_any_of_them(tmp_path, kind):
    path = write_kind(tmp_path, kind)
    whole = cut(path)
    assert [text_of(p) for p in whole] == [r["text"] for r in ROWS]
    assert len({p.where for p in whole}) == len(ROWS)
    for i, piece in enumerate(whole):
        rest = cut(path, piece.resume, piece.position) if i < len(ROWS) - 1 else []
        assert [text_of(p) for p in rest] == [r["text"] for r in ROWS[i + 1 :]]
        assert [p.where for p in rest] == [p.where for p in whole[i + 1 :]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_header_tells_the_delimiter(tmp_path, delimiter):
    path = write_csv(tmp_path / "press.csv", delimiter)
    assert [p.fields["text"] for p in cut(path)] == [r["text"] for r in ROWS]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_with_a_byte_order_mark_is_read(tmp_path, encoding):
    path = write_csv(tmp_path / "press.csv", encoding=encoding)
    assert [p.fields["text"] for p in cut(path)] == [r["text"] for r in ROWS]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", "text"), ("a.md", "markdown"), ("a.html", "html"), ("a.HTM", "html")],
)
def test_a_text_file_is_one_piece_named_by_its_file(tmp_path, name, kind):
    (tmp_path / name).write_text("Bonjour", encoding="utf-8")
    (piece,) = cut(tmp_path / name)
    assert (piece.kind, piece.body, piece.where) == (kind, b"Bonjour", name)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.txt", b"", "empty_file"),
        ("blank.txt", b" \n\n", "empty_file"),
        ("empty.jsonl", b"", "empty_file"),
        ("empty.csv", b"", "empty_file"),
        ("header.csv", b"text,n\n", "empty_file"),
        ("scan.pdf", b"%PDF-1.4", "file_type"),
        ("README", b"x", "file_type"),
        ("wide.csv", b"text,n\na,b,c\n", "broken_table"),
        ("bad.parquet", b"PAR1 nothing", "broken_table"),
        ("cut.json", b'[{"text": "a"}, {"te', "broken_json"),
    ],
)
def test_what_cannot_be_cut_is_a_piece_with_its_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    found = cut(tmp_path / name)
    assert found[-1].problem is not None
    assert found[-1].problem[0] == reason
    assert found[-1].problem[1]


def test_a_json_file_may_be_an_array_an_object_or_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"text": "seul", "tags": ["x"]}, indent=2), encoding="utf-8")
    assert [text_of(p) for p in cut(path)] == ["seul"]
    path.write_text('{"text": "un"}\n{"text": "deux"}\n', encoding="utf-8")
    assert [(text_of(p), p.where) for p in cut(path)] == [("un", "a.json:1"), ("deux", "a.json:2")]


def test_what_was_read_before_a_break_is_kept(tmp_path):
    (tmp_path / "cut.json").write_text('[{"text": "un"}, {"text": "deux"}, {"te')
    found = cut(tmp_path / "cut.json")
    assert [p.fields.get("text") for p in found] == ["un", "deux", None]


def test_a_line_too_large_is_passed_over_and_the_next_is_read(tmp_path):
    path = tmp_path / "press.jsonl"
    path.write_text(
        f'{{"text": "un"}}\n{{"text": "{"x" * (2 * MAX_BYTES)}"}}\n{{"text": "trois"}}\n'
    )
    one, large, three = cut(path)
    assert large.problem and large.problem[0] == "too_large" and not large.body
    assert (text_of(one), text_of(three), three.where) == ("un", "trois", "press.jsonl:3")


def test_an_unclosed_quotation_mark_costs_one_row_not_the_memory(tmp_path):
    path = tmp_path / "press.csv"
    path.write_text('text\n"a' + "b" * (MAX_BYTES + 10) + "\nc\n")
    reasons = [p.problem[0] for p in cut(path) if p.problem]
    assert reasons == ["broken_table"]


def test_a_50_mb_text_is_named_too_large_without_being_held(tmp_path):
    path = tmp_path / "dump.txt"
    with path.open("wb") as f:
        f.truncate(50_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (piece,) = cut(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert piece.problem == (
        "too_large",
        f"50,000,000 bytes, at most {MAX_BYTES:,} for one article",
    )
    assert grown < 20_000  # KB


def test_a_folder_is_listed_in_order_without_hidden_names(tmp_path):
    for name in ("b.txt", "a/2.txt", "a/1.txt", ".git/x.txt", "a/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sorted(e.name for e in listing(tmp_path)) == ["a/1.txt", "a/2.txt", "b.txt"]


def test_a_name_that_is_not_utf8_is_shown_and_read(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xe9t\xe9.txt", "wb") as f:  # noqa: PTH123 - bytes
        f.write(b"Bonjour")
    found = next(listing(tmp_path))
    assert found.name == "\\xe9t\\xe9.txt"
    assert next(pieces(found)).body == b"Bonjour"


def test_a_file_that_cannot_be_opened_is_tried_again_next_time(tmp_path):
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (piece,) = list(pieces(entry(tmp_path)))
    assert piece.problem == ("unreadable", "No such file or directory")
    assert piece.try_again and not piece.final


def test_a_source_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"input.path: .*press does not exist"):
        list(listing(tmp_path / "press"))
