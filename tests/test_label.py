"""From sources to labels: votes kept, labels joined, gold untouched, the report's arithmetic."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from conftest import ROOT, write_lines
from presseco.__main__ import main
from presseco.article import Article
from presseco.collect import collect
from presseco.errors import ConfigError, SourceError, TaxonomyError
from presseco.handover import read_labels
from presseco.imported import read_annotations
from presseco.label import join, label_source, read_collected, run, write
from presseco.labelling import Labelling, labellers, read_labelling
from presseco.labelreport import by_function, part_rows, source_rows
from presseco.similar import Seed, Similar
from presseco.source import FolderInput, Rights, Source
from presseco.taxonomy import read_taxonomy
from presseco.vote import Vote
from presses import CONFIG

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
TASKS = TAXONOMY.names


def rules(**change: Any) -> Labelling:
    settings = {"patterns": "seeds/patterns.yaml", "companies": "seeds/companies.csv"}
    rest = {"similar": None, "llm": None, "annotations": []}
    least = dict.fromkeys(TASKS, 0.6)
    return Labelling(**{**settings, **rest, "least_confidence": least, **change})


def articles(rows: list[dict[str, Any]], n: int) -> list[Article]:
    return [Article(r["id"], r["text"], {t: r[t] for t in TASKS}, r["title"]) for r in rows[:n]]


class Loud:
    """A source that says finance of everything, counts what it is asked, and may break down."""

    name = "loud"

    def __init__(self, stamp: str = "1", breaks_at: int = 10**9) -> None:
        self.stamp, self.asked, self.breaks_at = stamp, 0, breaks_at

    def vote(self, articles: Sequence[Article]) -> list[list[Vote]]:
        self.asked += len(articles)
        if self.asked > self.breaks_at:
            raise SourceError("gone")
        return [[Vote("sector", "finance", 0.9, ("all",))] for _ in articles]


def ask(folder: Path, given: list[Article], source: Loud) -> Any:
    return run(given, [a.labels for a in given], [source], rules(), TAXONOMY, folder)


def test_a_run_that_breaks_goes_on_where_it_was(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    given = articles(rows, 100)
    with pytest.raises(SourceError):
        ask(tmp_path, given, Loud(breaks_at=70))
    again = Loud()
    found = ask(tmp_path, given, again)
    assert (again.asked, found.asked) == (36, {"loud": 36})
    assert all(v["loud"]["sector"].label == "finance" for v in found.votes)


def test_changed_texts_and_changed_sources_are_asked_anew(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    given = articles(rows, 10)
    ask(tmp_path, given, Loud())
    assert ask(tmp_path, given, Loud()).asked == {"loud": 0}
    given[3] = Article(given[3].id, given[3].text + " Fin.", given[3].labels)
    assert ask(tmp_path, given, Loud()).asked == {"loud": 1}
    assert ask(tmp_path, given, Loud(stamp="2")).asked == {"loud": 10}


def test_labels_file_is_what_the_corpus_reads(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    given = articles(rows, 40)
    sources = labellers(rules(), ROOT, TAXONOMY)
    found = run(given, [a.labels for a in given], sources, rules(), TAXONOMY, tmp_path)
    write(tmp_path, found, TAXONOMY, only_missing=False)
    labels = read_labels(tmp_path / "labels.jsonl", TAXONOMY)
    assert labels == {
        a.id: {t: x for t, (x, _) in own.items()}
        for a, own in zip(given, found.labels, strict=True)
        if own
    }
    assert all(c >= 0.6 for own in found.labels for _, c in own.values())
    write(tmp_path, found, TAXONOMY, only_missing=True)
    assert (tmp_path / "labels.jsonl").read_text() == ""


def collected(tmp_path: Path, rows: list[dict[str, Any]], redistribute: bool = True) -> Source:
    kept = [{k: r[k] for k in ("id", "title", "text")} for r in rows[:30]]
    for row, gold in zip(kept[:5], rows, strict=False):
        row["sector"] = gold["sector"]
    write_lines(tmp_path / "press" / "a.jsonl", kept)
    source = Source(
        name="mine",
        rights=Rights(licence="contract", redistribute_text=redistribute),
        input=FolderInput(kind="folder", path=str(tmp_path / "press")),
        output=str(tmp_path / "out"),
    )
    collect(source, CONFIG, workers=0)
    return source


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def test_a_source_gets_labels_where_none_are_known(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source = collected(tmp_path, rows, redistribute=False)
    out = tmp_path / "out"
    console = Console(file=(tmp_path / "log").open("w"), width=200)
    label_source(source, CONFIG, rules(), TAXONOMY, console)
    first = (out / "articles.jsonl").read_text(encoding="utf-8")
    found = {r["id"]: r for r in lines(out / "articles.jsonl")}
    assert len(found) >= 25  # the others do not read as business news
    assert sum(bool(r.get("sector")) for r in found.values()) > 20
    for gold in rows[:5]:
        row = found[f"mine-{gold['id']}"]
        assert row["sector"] == gold["sector"] and "sector" not in row.get("weak", {})
    assert all(0.6 <= c <= 1 for r in found.values() for c in r.get("weak", {}).values())
    shared = lines(out / "shareable.jsonl")
    assert all("text" not in r for r in shared)
    assert [r.get("weak") for r in shared] == [r.get("weak") for r in found.values()]
    # Again: its own labels are not taken for gold, nothing is asked, nothing changes.
    label_source(source, CONFIG, rules(), TAXONOMY, console)
    assert (out / "articles.jsonl").read_text(encoding="utf-8") == first
    # Stricter: labels that are no longer sure go.
    strict = rules(least_confidence=dict.fromkeys(TASKS, 0.999))
    label_source(source, CONFIG, strict, TAXONOMY, console)
    left = [c for r in lines(out / "articles.jsonl") for c in r.get("weak", {}).values()]
    assert all(c >= 0.999 for c in left)
    assert sum("sector" in r for r in lines(out / "articles.jsonl") if r["sector"]) >= 5


def test_the_pipelines_stage_and_the_verb(
    tmp_path: Path, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    source = collected(tmp_path, rows)
    file = tmp_path / "labelling.yaml"
    file.write_text(yaml.safe_dump(rules().model_dump()), encoding="utf-8")
    settings = tmp_path / "mine.yaml"
    data = source.model_dump(exclude_none=True) | {"labelling": str(file)}
    settings.write_text(yaml.safe_dump(data), encoding="utf-8")
    experiment = str(ROOT / "configs/experiment/baseline.yaml")
    assert main(["label", "--source", str(settings), "--experiment", experiment]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"articles \(asked now: patterns (\d\d), companies \1\); labelled: sector \d+", told
    )
    assert (
        main(["data", "--source", str(settings), "--experiment", experiment, "--workers", "1"]) == 0
    )
    told = capsys.readouterr().out
    assert "asked now: patterns 0, companies 0" in told and "corpus" in told
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {r["source"] for r in report["sources"]} == {"patterns", "companies", "consensus"}


def test_shipped_settings_are_valid_and_unknown_keys_are_not(tmp_path: Path) -> None:
    shipped = (ROOT / "configs" / "labelling.yaml").read_text(encoding="utf-8")
    assert read_labelling(ROOT / "configs" / "labelling.yaml").patterns
    file = tmp_path / "labelling.yaml"
    file.write_text(shipped.replace("neighbours:", "neighbors:"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'similar.neighbors' \(did you mean 'neighbours'"):
        read_labelling(file)
    file.write_text(shipped.replace("sector: 0.5", "sektor: 0.5"), encoding="utf-8")
    with pytest.raises(ConfigError, match="least_confidence"):
        labellers(read_labelling(file), ROOT, TAXONOMY)


def test_without_articles_the_verb_says_what_to_do_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "none.yaml"
    rights = {"licence": "x", "redistribute_text": True}
    data = {"name": "none", "rights": rights, "input": {"kind": "folder", "path": "x"}}
    settings.write_text(yaml.safe_dump(data | {"output": str(tmp_path)}), encoding="utf-8")
    experiment = str(ROOT / "configs/experiment/baseline.yaml")
    assert main(["label", "--source", str(settings), "--experiment", experiment]) == 1
    assert "first: presseco data --source" in capsys.readouterr().err


def test_imported_annotations(tmp_path: Path) -> None:
    one = write_lines(
        tmp_path / "one.jsonl",
        [{"annotator": "ada", "id": "a", "sector": "finance", "sentiment": None}],
    )
    two = tmp_path / "two.csv"
    two.write_text("annotator,id,sector,event_type,sentiment\nbob,a,energie,,positif\n")
    ada, bob = read_annotations([one, two], TAXONOMY)
    (votes,) = bob.vote([Article("a", "x", {})])
    assert {v.task: v.label for v in votes} == {"sector": "energie", "sentiment": "positif"}
    assert ada.name == "annotator:ada" and ada.vote([Article("b", "x", {})]) == [[]]
    two.write_text("annotator,id,sector\nbob,a,energie\nbob,a,finance\n")
    with pytest.raises(SourceError, match=r"two.csv:3: bob labelled a twice, differently"):
        read_annotations([two], TAXONOMY)
    two.write_text("annotator,id,sector\nbob,a,petrole\n")
    with pytest.raises(TaxonomyError, match=r"two\.csv:2"):
        read_annotations([two], TAXONOMY)
    two.write_text("who,id,sector\nbob,a,energie\n")
    with pytest.raises(SourceError, match="expected annotator, id and labels"):
        read_annotations([two], TAXONOMY)


def test_line_separators_inside_a_text_are_no_line_ends(tmp_path: Path) -> None:
    text = "Une\u2028deux\u2029trois\x85quatre"
    row = {"id": "a", "text": text, "sector": "finance", "annotator": "ada"}
    for name in ("articles.jsonl", "shareable.jsonl", "labels.jsonl"):
        write_lines(tmp_path / name, [row])
    [article], _ = read_collected(tmp_path / "articles.jsonl", TAXONOMY)
    assert article.text == text
    assert read_labels(tmp_path / "labels.jsonl", TAXONOMY) == {"a": {"sector": "finance"}}
    assert read_annotations([tmp_path / "labels.jsonl"], TAXONOMY)[0].labels.keys() == {"a"}
    assert join(tmp_path, TAXONOMY) == 1
    (tmp_path / "two.csv").write_text(f"annotator,id,sector,note\nada,a,finance,{text}\n", "utf-8")
    assert read_annotations([tmp_path / "two.csv"], TAXONOMY)[0].labels.keys() == {"a"}


def test_report_of_sources() -> None:
    def vote(x: str) -> dict[str, Vote]:
        return {"sector": Vote("sector", x, 1.0)}

    given = [
        {"a": vote("finance"), "b": vote("finance")},
        {"a": vote("finance"), "b": vote("energie")},
        {"a": vote("energie"), "b": {}},
        {"a": {}, "b": {}},
    ]
    gold = [{"sector": x} for x in ("finance", "finance", "finance", None)]
    a, b = source_rows(given, gold, ["train", "train", "test", ""], TAXONOMY)
    assert (a.coverage, a.overlap, a.conflict) == (0.75, 0.5, 0.25)
    assert (a.accuracy, a.n) == ({"train": 1.0, "test": 0.0}, {"train": 2, "test": 1})
    assert (b.coverage, b.overlap, b.conflict, b.accuracy) == (0.5, 0.5, 0.25, {"train": 0.5})


def test_report_of_parts_names_the_dead_and_the_harmful() -> None:
    gold = [{"sector": "finance" if i % 2 else "energie"} for i in range(20)]
    good, bad = ("f:good", "sector", "finance"), ("f:bad", "sector", "finance")
    hits = [[good] if i % 2 else [bad] for i in range(20)]
    known = [good, bad, ("f:dead", "sector", "finance")]
    rows = {r.part: r for r in part_rows("patterns", known, hits, gold)}
    assert {p: r.verdict for p, r in rows.items()} == {
        "f:good": "",
        "f:bad": "harmful",
        "f:dead": "dead",
    }
    assert (rows["f:good"].right, rows["f:good"].prior, rows["f:bad"].n) == (1.0, 0.5, 10)
    (whole,) = by_function(list(rows.values()))
    assert (whole.part, whole.hits, whole.right) == ("f", 20, 0.5)


def test_seeds_too_far_away_are_doubt_and_are_not_named() -> None:
    seeds = [Seed(f"s{i}", "", {"sector": "finance"}) for i in range(3)]
    source = Similar(seeds, TAXONOMY, Path("no-encoder"), ("sector",), 3, 0.5, 32)
    [vote] = source._one(np.array([0.4, 0.9, 0.3], dtype=np.float32))
    assert (vote.label, vote.by) == ("finance", ("s1",))
    assert vote.confidence == pytest.approx(0.81 / (0.81 + 3 * 0.25), abs=1e-3)
    assert source._one(np.array([0.4, 0.4, 0.4], dtype=np.float32)) == []


@pytest.mark.services
def test_nearest_seeds_vote_and_far_ones_do_not(tiny_encoder: Path) -> None:
    texts = ("La banque prête aux ménages.", "Le pétrole et le gaz montent.", "Un champ de blé.")
    seeds = [
        Seed(f"s{i}", text, {"sector": x})
        for i, (text, x) in enumerate(
            zip(texts, ("finance", "energie", "agroalimentaire"), strict=True)
        )
    ]
    source = Similar(seeds, TAXONOMY, tiny_encoder, ("sector",), 2, 0.5, 32)
    votes = source.vote([Article("a", t, {}) for t in texts])
    assert [v[0].label for v in votes] == ["finance", "energie", "agroalimentaire"]
    assert [v[0].by[0] for v in votes] == ["s0", "s1", "s2"]
    assert all(0 < v[0].confidence < 1 for v in votes)
    assert source._one(np.array([0.4, 0.3, -1.0], dtype=np.float32)) == []
    other = Similar(seeds[:2], TAXONOMY, tiny_encoder, ("sector",), 2, 0.5, 32)
    assert other.stamp != source.stamp
