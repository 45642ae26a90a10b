"""The corpus build: deterministic, skipped when unchanged, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from conftest import SHRINK, experiment, write_lines
from presseco.config import Config, read_config
from presseco.corpus import Corpus, build_corpus, leaks
from presseco.errors import ArticleError, ConfigError, StoreError, TaxonomyError
from presseco.examples import load_data
from presseco.taxonomy import MISSING


def config_of(project: Path, *overrides: str) -> Config:
    return read_config(experiment(project, "baseline"), [*SHRINK, *overrides])


def build(project: Path, *overrides: str) -> Corpus:
    return build_corpus(config_of(project, *overrides))[0]


def add(project: Path, *rows: dict[str, Any] | str) -> Path:
    return write_lines(project / "data" / "articles" / "Z.jsonl", rows)


def new_row(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    text = " ".join(reversed(rows[0]["text"].split()))
    return rows[0] | {"id": "new", "text": text, "writer": "Z"} | changes


def test_sizes_writers_and_leaks(project):
    corpus = build(project)
    data = corpus.load()
    assert corpus.sizes == {"train": 110, "validation": 20, "test": 20, "out_of_domain": 0}
    assert set(data["validation"]["writer"]) == {"E"} and set(data["test"]["writer"]) == {"F"}
    assert set(data["train"]["writer"]) == {"A", "B", "C", "D", "seeds"}
    assert set(leaks(corpus).values()) == {0}


def test_labels_are_class_labels_and_parquet_says_the_same(project, rows):
    corpus = build(project)
    data = corpus.load()
    train = {r["id"]: r for r in rows}
    for task in corpus.taxonomy.tasks:
        feature = data["train"].features[task.name]
        assert tuple(feature.names) == task.ids
        for article, value in zip(data["train"]["id"], data["train"][task.name], strict=True):
            if article in train:
                assert feature.int2str(value) == train[article][task.name]
    for split in data:
        table = pq.read_table(corpus.folder / f"{split}.parquet")
        assert table["text"].to_pylist() == list(data[split]["text"])


def test_same_inputs_same_digest_in_another_process_and_folder(project, tmp_path):
    here = build(project).digest
    other = Path(shutil.copytree(project, tmp_path / "other"))
    shutil.rmtree(other / "build")
    (other / "data" / "articles" / "A.jsonl").rename(other / "data" / "articles" / "zz.jsonl")
    command = [sys.executable, "-m", "presseco", "data", "--experiment"]
    command += [experiment(other, "baseline"), *[w for s in SHRINK for w in ("--set", s)]]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert here in done.stdout


def test_second_build_is_skipped_and_touches_nothing(project):
    first, skipped = build_corpus(config_of(project))
    assert not skipped
    before = {p: p.stat().st_mtime_ns for p in first.folder.rglob("*")}
    second, skipped = build_corpus(config_of(project))
    assert skipped and second == first
    assert {p: p.stat().st_mtime_ns for p in first.folder.rglob("*")} == before


def test_folder_that_lost_a_part_is_built_again(project):
    corpus = build(project)
    shutil.rmtree(corpus.folder / "dataset")
    again, skipped = build_corpus(config_of(project))
    assert not skipped and again.digest == corpus.digest and again.load()


@pytest.mark.parametrize("what", ["text", "label", "taxonomy", "seed"])
def test_any_change_of_content_changes_the_digest(project, rows, what):
    before = build(project).digest
    if what in ("text", "label"):
        row = rows[0] | ({"text": rows[0]["text"] + " Fin."} if what == "text" else {})
        row |= (
            {"sentiment": "neutre" if row["sentiment"] != "neutre" else "positif"}
            if (what == "label")
            else {}
        )
        mine = [row, *(r for r in rows[1:] if r["writer"] == "A")]
        write_lines(project / "data" / "articles" / "A.jsonl", mine)
    elif what == "taxonomy":
        path = project / "configs" / "taxonomy.yaml"
        taxonomy = yaml.safe_load(path.read_text("utf-8"))
        taxonomy["tasks"][0]["labels"].reverse()  # the order of the logits
        path.write_text(yaml.safe_dump(taxonomy), "utf-8")
    else:
        seed = next((project / "seeds").glob("*.txt"))
        seed.write_text(seed.read_text("utf-8") + "\nFin.", "utf-8")
    after, skipped = build_corpus(config_of(project))
    assert not skipped and after.digest != before


def test_label_that_the_taxonomy_has_no_more_is_refused(project):
    build(project)
    path = project / "configs" / "taxonomy.yaml"
    path.write_text(path.read_text("utf-8").replace("id: autre", "id: divers"), "utf-8")
    with pytest.raises(TaxonomyError, match="event_type is 'autre'"):
        build(project)


def test_order_of_files_and_lines_does_not_matter(project):
    before = build(project).digest
    path = project / "data" / "articles" / "A.jsonl"
    lines = path.read_text("utf-8").splitlines()
    write_lines(path, reversed(lines))
    after, skipped = build_corpus(config_of(project))
    assert not skipped and after.digest == before


def test_unicode_is_composed_and_control_characters_go(project, rows):
    import unicodedata

    text = unicodedata.normalize("NFD", "Société générale : bénéfice élevé. " * 5)
    text = f"\ufeff{text[:10]}\u200b\x00\x07{text[10:]}\r\nFin\ud800."
    add(project, json.dumps(new_row(rows, text=text, title="Le\u0301na")))
    data = build(project).load()["train"]
    row = next(r for r in data if r["id"] == "new")
    assert row["text"] == "Société générale : bénéfice élevé. " * 5 + "\nFin."
    assert row["title"] == "Léna"


def test_line_and_paragraph_separators_are_line_breaks(project, rows):
    text = "La banque relève son objectif annuel de bénéfice.\u2028Le titre monte.\u2029" * 4
    add(project, new_row(rows, text=text))
    data = build(project).load()["train"]
    [row] = [r for r in data if r["id"] == "new"]
    assert row["text"] == text.replace("\u2028", "\n").replace("\u2029", "\n").strip()


def test_out_of_domain_text_may_hold_any_separator(project):
    corpus = build(project)
    row = {"id": "x", "text": "Une\u2028deux\u2029trois\x85quatre", "split": "train"}
    write_lines(corpus.folder / "out_of_domain.jsonl", [row])
    assert corpus.outside() == [row]


def test_accents_and_case_stay(project, rows):
    text = "À L’ÉTAT : l'œuvre coûte 3 M€ (+4,5 %) « déjà ». " * 3
    add(project, new_row(rows, text=text))
    data = build(project).load()["train"]
    assert text.strip() in list(data["text"])


def test_article_that_is_too_long(project, rows):
    add(project, new_row(rows, text="mot " * 500_000))
    with pytest.raises(ArticleError, match=r"article new: 1,999,999 characters, at most 100,000"):
        build(project)


def test_article_that_is_too_short(project, rows):
    add(project, new_row(rows, text="Trop peu de mots."))
    with pytest.raises(ArticleError, match="article new: 4 words, at least 15 expected"):
        build(project)


def test_id_used_twice(project, rows):
    add(project, new_row(rows, id=rows[5]["id"]))
    with pytest.raises(ArticleError, match=f"ids used twice: {rows[5]['id']};"):
        build(project)


def test_copy_is_left_out_with_its_reason(project, rows):
    copy = rows[0] | {"id": "zz-copy", "text": rows[0]["text"].upper()}
    add(project, copy)
    corpus = build(project)
    assert corpus.sizes["train"] == 110
    [left] = [json.loads(line) for line in (corpus.folder / "quarantine.jsonl").open()]
    assert left == {
        "id": "zz-copy",
        "reason": f"tells the same story as {rows[0]['id']} (near-duplicate)",
    }


def test_copy_of_a_test_article_leaves_train(project, rows):
    test = next(r for r in rows if r["writer"] == "F")
    add(project, test | {"id": "aa-copy", "writer": "Z"})
    corpus = build(project)
    assert corpus.sizes["test"] == 20 and "aa-copy" not in corpus.load()["train"]["id"]
    assert "aa-copy" in (corpus.folder / "quarantine.jsonl").read_text()


def test_company_of_test_leaves_train(project, rows):
    test = next(r for r in rows if r["writer"] == "F")
    rest = [r for r in rows if r["writer"] == "F" and r is not test]
    write_lines(
        project / "data" / "articles" / "F.jsonl", [test | {"company": "Nexalia SA"}, *rest]
    )
    add(project, new_row(rows, company="NEXALIA S.A."))
    corpus = build(project)
    assert "new" not in corpus.load()["train"]["id"]
    assert "shares its company" in (corpus.folder / "quarantine.jsonl").read_text()
    assert set(leaks(corpus).values()) == {0}


def test_leaks_are_counted_not_assumed(project):
    """A corpus that does leak must not read 0."""
    from datasets import load_from_disk

    corpus = build(project)
    data = load_from_disk(str(corpus.folder / "dataset"))
    data["test"] = data["train"].select(range(5))
    data.save_to_disk(str(corpus.folder / "leaking"))
    shutil.rmtree(corpus.folder / "dataset")
    (corpus.folder / "leaking").rename(corpus.folder / "dataset")
    found = leaks(corpus)
    assert found["writer, train and test"] == 1 and found["story, train and test"] == 5
    assert found["writer, train and validation"] == 0


def test_missing_and_out_of_domain_labels(project, rows):
    add(
        project,
        {k: v for k, v in new_row(rows).items() if k != "sentiment"},
        new_row(rows, id="recette", text="Battre les œufs, ajouter la farine. " * 5, sector=None)
        | {"out_of_domain": True},
    )
    corpus = build(project)
    data = load_data(corpus)
    labels = dict(zip(data.train.ids, data.train.labels.tolist(), strict=True))
    assert labels["new"][2] == MISSING and MISSING not in labels["new"][:2]
    assert "recette" not in labels and corpus.sizes["out_of_domain"] == 1
    assert len(data.outside["train"]) == 1


def test_hashed_split_without_writers(project):
    corpus = build(project, "corpus.validation_writers=[]", "corpus.test_writers=[]")
    assert min(corpus.sizes[s] for s in ("train", "validation", "test")) >= 8
    found = leaks(corpus)
    assert found["story, train and test"] == found["company, train and test"] == 0


def test_failed_build_leaves_the_old_corpus(project, rows):
    before = build(project)
    add(project, '{"id": "x", "text": ')
    with pytest.raises(ArticleError, match=r"Z\.jsonl:1: broken JSON"):
        build(project)
    (project / "data" / "articles" / "Z.jsonl").unlink()
    again, skipped = build_corpus(config_of(project))
    assert skipped and again == before


def test_full_disk_leaves_the_old_corpus(project, rows, small_files):
    before = build(project)
    add(project, new_row(rows))
    with small_files(20_000), pytest.raises(StoreError, match="cannot be written"):
        build(project)
    assert Corpus(before.folder, before.digest, before.taxonomy, before.sizes).load()
    assert [p.name for p in before.folder.parent.iterdir()] == ["corpus"]


def test_place_without_articles(project):
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        build(project, "corpus.articles=[nowhere]")
    with pytest.raises(ConfigError, match=r"no \.jsonl file in \['configs'\]"):
        build(project, "corpus.articles=[configs]")


def test_empty_split_is_refused_at_once(project):
    files = "corpus.articles=[data/articles/E.jsonl, data/articles/F.jsonl]"
    assert build(project, files).sizes["train"] == 30
    with pytest.raises(ConfigError, match="no article in train, of 40 in all"):
        build(project, files, "corpus.seeds=null")


def test_task_without_labels_is_refused(project, rows):
    bare = [{k: v for k, v in r.items() if k != "sentiment"} for r in rows if r["writer"] == "F"]
    write_lines(project / "data" / "articles" / "F.jsonl", bare)
    with pytest.raises(ConfigError, match="sentiment: 0 different labels in the test split"):
        load_data(build(project))


def test_datasheet_counts_the_corpus(project):
    corpus = build(project)
    text = (corpus.folder / "datasheet.md").read_text("utf-8")
    assert corpus.digest in text and "| validation | 20 |" in text
