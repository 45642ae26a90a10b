"""A source from files to articles: nothing lost, right reasons, resumed, incremental, in parallel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import ROOT
from presseco.article import read_articles
from presseco.collect import collect
from presseco.errors import SourceError, TaxonomyError
from presseco.source import Source
from presseco.taxonomy import read_taxonomy
from presses import CONFIG, lines, source, texts
from test_stages import OTHERS

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")


def gather(settings: Source, **options):
    counts = collect(settings, CONFIG, **{"workers": 0, **options})
    out = Path(str(settings.output))
    kept, aside = lines(out / "articles.jsonl"), lines(out / "quarantine.jsonl")
    assert counts.read == counts.kept + counts.quarantined
    assert (counts.kept, counts.quarantined) == (len(kept), len(aside))
    assert [r["id"] for r in lines(out / "ledger.jsonl")] == [r["id"] for r in kept]
    return counts, kept, aside


def number(what: str) -> int:
    """Return how many articles a progress report speaks of."""
    return int(what.split()[0].replace(",", ""))


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def messy(folder: Path) -> dict[str, tuple[str, str]]:
    """Write one file for every way in which press comes; return (stage, reason) by file."""
    french = texts(12)
    sport = "Lens bat Rennes au bout du temps additionnel, le buteur quitte le vestiaire. " * 4
    page = "".join(f"<p>{p}</p>" for p in french[0].split("\n"))
    menu = "<nav>" + "<a href='/'>Bourse et marchés</a>" * 50 + "</nav>"
    put(folder, "page.html", f"<html><body>{menu}<article>{page}</article></body></html>")
    put(folder, "cp1252.txt", french[1].encode("cp1252", "ignore"))
    put(folder, "mac.txt", french[2].encode("mac_roman", "ignore"))
    put(folder, "utf16.txt", french[3].encode("utf-16"))
    put(folder, "mojibake.txt", french[4].encode().decode("latin-1"))
    put(folder, "rewrite.txt", french[5].replace(" la ", " cette ", 1) + " (actualisé)")
    put(folder, "a/original.txt", french[5])
    rows = [{"text": french[6]}, {"text": french[7], "sector": "energie"}, {"titre": "x"}]
    put(folder, "rows.jsonl", "\n".join(map(json.dumps, rows)) + '\n{"text": "cou')
    wrong = {
        "z/copy.txt": (french[5].upper(), "duplicates", "exact_copy"),
        "empty.txt": ("", "read", "empty_file"),
        "logo.txt": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "read", "binary"),
        "scan.pdf": (b"%PDF-1.7", "read", "file_type"),
        "menu.html": (f"<html><body>{menu}</body></html>", "read", "no_article"),
        "lost.txt": (french[8].replace("é", "\ufffd"), "repair", "encoding"),
        "brief.txt": ("Renault monte à la Bourse de Paris.", "normalise", "too_short"),
        "archive.txt": ("\n".join(texts(120)), "normalise", "too_long"),
        "english.txt": (OTHERS["en"] * 3, "language", "language"),
        "german.txt": (OTHERS["de"] * 3, "language", "language"),
        "sport.txt": (sport, "business", "not_business"),
    }
    for name, (content, _, _) in wrong.items():
        put(folder, name, content)
    with (folder / "dump.txt").open("wb") as f:
        f.truncate(50_000_000)
    expected = {name: (stage, reason) for name, (_, stage, reason) in wrong.items()}
    return expected | {
        "dump.txt": ("read", "too_large"),
        "rows.jsonl:3": ("read", "no_text"),
        "rows.jsonl:4": ("read", "broken_json"),
    }


def test_a_messy_folder_gives_every_article_or_the_right_reason(tmp_path):
    expected = messy(tmp_path / "press")
    counts, kept, aside = gather(source(tmp_path / "press"))
    assert {r["where"]: (r["stage"], r["reason"]) for r in aside} == expected
    assert counts.kept == 9
    assert counts.labelled == 1
    assert {r["where"] for r in lines(tmp_path / "out" / "ledger.jsonl")} == {
        *("a/original.txt", "cp1252.txt", "mac.txt", "mojibake.txt", "page.html", "rewrite.txt"),
        *("rows.jsonl:1", "rows.jsonl:2", "utf16.txt"),
    }
    assert all("Ã" not in r["text"] and "\ufffd" not in r["text"] for r in kept)


def test_every_stage_passes_on_what_it_did_not_set_aside(tmp_path):
    messy(tmp_path / "press")
    counts, kept, _ = gather(source(tmp_path / "press"))
    rows = list(counts.rows())
    assert rows[0][1] == counts.read
    assert rows[-1][3] == len(kept)
    for (_, inside, aside, out, _), following in pairwise(rows):
        assert inside - aside == out == following[1]


def test_articles_are_in_the_form_that_the_corpus_reads(tmp_path):
    messy(tmp_path / "press")
    _, kept, _ = gather(source(tmp_path / "press"))
    articles = list(read_articles(tmp_path / "out" / "articles.jsonl", TAXONOMY))
    assert [a.id for a in articles] == [r["id"] for r in kept]
    assert len({a.id for a in articles}) == len(articles)
    assert {a.rights for a in articles} == {"contract"}


def test_near_duplicates_share_a_story_and_others_do_not(tmp_path):
    messy(tmp_path / "press")
    counts, kept, _ = gather(source(tmp_path / "press"))
    stories = Counter(r["story"] for r in kept if "story" in r)
    assert list(stories.values()) == [2]
    assert counts.stories == counts.kept - 1


def test_text_that_may_not_be_passed_on_is_not_in_what_leaves_the_house(tmp_path):
    messy(tmp_path / "press")
    _, kept, _ = gather(source(tmp_path / "press"))
    shared = lines(tmp_path / "out" / "shareable.jsonl")
    assert [r["id"] for r in shared] == [r["id"] for r in kept]
    assert not any({"text", "title", "annotations"} & set(r) for r in shared)
    assert [r.get("sector") for r in shared] == [r.get("sector") for r in kept]
    whole = (tmp_path / "out" / "shareable.jsonl").read_text(encoding="utf-8")
    assert not any(r["text"][:40] in whole for r in kept)
    free = {"licence": "CC-BY-4.0", "redistribute_text": True}
    _, kept, _ = gather(source(tmp_path / "press", rights=free))
    shared = lines(tmp_path / "out" / "shareable.jsonl")
    assert [r["text"] for r in shared] == [r["text"] for r in kept]


def test_the_ledger_says_whose_every_article_is(tmp_path):
    row = {"text": texts(1)[0], "url": "http://x/1", "rights": "CC0", "writer": "Zoé", "id": 7}
    put(tmp_path / "press", "a.jsonl", json.dumps(row))
    gather(source(tmp_path / "press"))
    (entry,) = lines(tmp_path / "out" / "ledger.jsonl")
    assert len(entry.pop("sha256")) == 64
    assert entry == {
        "id": "essai-7",
        "source": "essai",
        "where": "a.jsonl:1",
        "url": "http://x/1",
        "writer": "Zoé",
        "date": "",
        "licence": "contract",
        "redistribute_text": False,
        "attribution": "Le Test",
        "stated_rights": "CC0",
    }


def test_changing_the_rights_reads_nothing_again(tmp_path):
    put(tmp_path / "press", "a.txt", texts(1)[0])
    gather(source(tmp_path / "press"))
    seen = []
    rights = {"licence": "other", "redistribute_text": True}
    gather(
        source(tmp_path / "press", rights=rights), report=lambda what, *_: seen.append(number(what))
    )
    assert not seen
    [entry] = lines(tmp_path / "out" / "ledger.jsonl")
    assert entry["licence"] == "other" and "stated_rights" not in entry
    for name in ("articles.jsonl", "shareable.jsonl"):
        assert lines(tmp_path / "out" / name)[0]["rights"] == "other"


def test_two_texts_with_one_id_are_not_both_kept(tmp_path):
    rows = [{"id": "a", "text": t} for t in texts(2)]
    put(tmp_path / "press", "a.jsonl", "\n".join(map(json.dumps, rows)))
    _, kept, aside = gather(source(tmp_path / "press"))
    assert [r["id"] for r in kept] == ["essai-a"]
    assert [(r["where"], r["reason"]) for r in aside] == [("a.jsonl:2", "id_twice")]


def test_text_whose_first_holder_went_aside_is_kept_of_the_next(tmp_path):
    one, two = texts(2)
    rows = [("a", one), ("a", two), ("b", two), ("c", two)]
    content = "\n".join(json.dumps({"id": i, "text": t}) for i, t in rows)
    put(tmp_path / "press", "a.jsonl", content)
    _, kept, aside = gather(source(tmp_path / "press"))
    assert [(r["id"], r["text"]) for r in kept] == [("essai-a", one), ("essai-b", two)]
    assert [(r["where"], r["reason"], r["detail"]) for r in aside] == [
        ("a.jsonl:2", "id_twice", "another text has the id essai-a; ids must be unique"),
        ("a.jsonl:4", "exact_copy", "same words as essai-b"),
    ]


# --- incremental


def test_a_second_run_reads_only_what_is_new_or_changed(tmp_path):
    press = tmp_path / "press"
    a, b, c, d, e = texts(5)
    put(press, "a.txt", a)
    put(press, "b.txt", b)
    gather(source(press))
    put(press, "b.txt", c)
    put(press, "d.txt", d)
    seen = []
    _, kept, _ = gather(source(press), report=lambda what, *_: seen.append(number(what)))
    assert seen[-1] == 2
    assert {r["text"] for r in kept} == {a, c, d}
    (press / "a.txt").unlink()
    _, kept, _ = gather(source(press))
    assert {r["text"] for r in kept} == {c, d}
    put(press, "e.jsonl", json.dumps({"text": e}) + "\n" + json.dumps({"text": d.upper()}))
    _, kept, aside = gather(source(press))
    assert {r["text"] for r in kept} == {c, d, e}
    assert [r["where"] for r in aside] == ["e.jsonl:2"]


def test_increments_end_where_a_fresh_run_does(tmp_path):
    messy(tmp_path / "press")
    files = sorted(p for p in (tmp_path / "press").rglob("*") if p.is_file())
    part = tmp_path / "half" / "press"
    for path in files[::2] + files[1::2]:
        put(part, str(path.relative_to(tmp_path / "press")), path.read_bytes())
        if path == files[::2][-1]:
            gather(source(part, output=str(tmp_path / "half" / "out")))
    gather(source(part, output=str(tmp_path / "half" / "out")))
    gather(source(tmp_path / "press"))
    for name in ("articles.jsonl", "quarantine.jsonl", "ledger.jsonl", "shareable.jsonl"):
        assert (tmp_path / "half" / "out" / name).read_bytes() == (
            tmp_path / "out" / name
        ).read_bytes()


def test_new_settings_read_everything_again(tmp_path):
    put(tmp_path / "press", "a.txt", texts(1)[0])
    assert gather(source(tmp_path / "press"))[0].kept == 1
    long = {"min_words": 9999}
    counts, _, aside = gather(source(tmp_path / "press", keep=long))
    assert (counts.kept, aside[0]["reason"]) == (0, "too_short")


def test_processes_give_what_one_gives(tmp_path):
    rows = [json.dumps({"text": t}) for t in texts(300)]
    put(tmp_path / "press", "a.jsonl", "\n".join(rows[:250]))
    put(tmp_path / "press", "b.jsonl", "\n".join(rows[200:]))
    gather(source(tmp_path / "press"))
    alone = [(tmp_path / "out" / n).read_bytes() for n in ("articles.jsonl", "quarantine.jsonl")]
    gather(source(tmp_path / "press", output=str(tmp_path / "two")), workers=2)
    assert alone == [
        (tmp_path / "two" / n).read_bytes() for n in ("articles.jsonl", "quarantine.jsonl")
    ]


def test_one_article_that_breaks_a_parser_does_not_stop_the_others(tmp_path, monkeypatch):
    def breaks(body, **_):
        raise ValueError("a parser's own mistake")

    monkeypatch.setattr("trafilatura.bare_extraction", breaks)
    put(tmp_path / "press", "a.html", "<html><body><p>x</p></body></html>")
    put(tmp_path / "press", "b.txt", texts(1)[0])
    counts, _, aside = gather(source(tmp_path / "press"))
    assert counts.kept == 1
    assert (aside[0]["reason"], aside[0]["detail"]) == (
        "crashed",
        "ValueError: a parser's own mistake",
    )


# --- killed half-way

CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from presses import CONFIG, source
from presseco.collect import collect
if __name__ == "__main__":
    told = lambda *said: print(*said, flush=True)
    collect(source(Path({press!r})), CONFIG, workers={workers}, report=told)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_where_it_was(tmp_path, workers):
    press = tmp_path / "press"
    base = texts(120)
    for name in ("a", "b"):
        put(
            press, f"{name}.jsonl", "\n".join(json.dumps({"text": f"{name} {t}"}) for t in base * 2)
        )
    script = put(
        tmp_path,
        "child.py",
        CHILD.format(tests=str(ROOT / "tests"), press=str(press), workers=workers),
    )
    child = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(2)]
    children = descendants(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = number(said[-1])
    assert 0 < done < 480
    wait_for_the_end_of(children)
    seen: list[int] = []
    counts, kept, aside = gather(source(press), report=lambda what, *_: seen.append(number(what)))
    assert seen[-1] <= 480 - done, "the second run read again what the first had saved"
    assert counts.read == 480
    whole = [(r["id"], r["text"]) for r in kept], aside
    fresh = source(press, output=str(tmp_path / "fresh"))
    counts, kept, aside = gather(fresh)
    assert whole == ([(r["id"], r["text"]) for r in kept], aside)


def descendants(pid: int) -> list[int]:
    import psutil

    return [p.pid for p in psutil.Process(pid).children(recursive=True)]


def wait_for_the_end_of(pids: list[int]) -> None:
    """Workers of a killed parent must end by themselves."""
    import psutil

    limit = time.monotonic() + 20
    while any(psutil.pid_exists(p) for p in pids):
        assert time.monotonic() < limit, "a worker outlived its parent"
        time.sleep(0.1)


def test_two_runs_at_once_on_one_source_are_refused(tmp_path):
    from presseco.collection import Collection

    put(tmp_path / "press", "a.txt", texts(1)[0])
    first = Collection(tmp_path / "out" / "collection.db")
    with pytest.raises(SourceError, match="Is another run at work on this source"):
        gather(source(tmp_path / "press"))
    first.close()
    assert gather(source(tmp_path / "press"))[0].kept == 1


def test_a_broken_database_says_what_to_do(tmp_path):
    put(tmp_path / "out", "collection.db", "not a database, and long enough to be read as one" * 9)
    put(tmp_path / "press", "a.txt", texts(1)[0])
    with pytest.raises(SourceError, match="Delete the file: the source is read again"):
        gather(source(tmp_path / "press"))


# --- labels


def test_labels_given_later_join_by_id(tmp_path):
    put(tmp_path / "press", "a.txt", texts(1)[0])
    put(tmp_path / "press", "b.txt", texts(2)[1])
    _, kept, _ = gather(source(tmp_path / "press"))
    row = {
        "id": kept[0]["id"],
        "sector": "energie",
        "sentiment": "neutre",
        "annotations": [{"a": 1}],
    }
    labels = put(tmp_path, "labels.jsonl", json.dumps(row) + "\n")
    put(tmp_path / "press", "0.txt", texts(3)[2])
    counts, kept, _ = gather(source(tmp_path / "press", labels=str(labels)))
    found = {r["id"]: r for r in kept}[row["id"]]
    assert {k: found[k] for k in row} == row
    assert counts.labelled == 1


def test_a_label_that_does_not_exist_is_refused_with_its_line(tmp_path):
    put(tmp_path / "press", "a.txt", texts(1)[0])
    labels = put(tmp_path, "labels.jsonl", '{"id": "x", "sector": "energy"}\n')
    with pytest.raises(TaxonomyError, match=r"labels.jsonl:1: sector is 'energy'.*'energie'"):
        gather(source(tmp_path / "press", labels=str(labels)))
    put(tmp_path, "labels.jsonl", '{"sector": "energie"}\n')
    with pytest.raises(SourceError, match=r"labels.jsonl:1: expected a JSON object with an id"):
        gather(source(tmp_path / "press", labels=str(labels)))


def test_a_source_on_the_network_needs_the_word(tmp_path):
    feed = {"kind": "feed", "urls": ["http://127.0.0.1:9/rss"], "contact": "me"}
    with pytest.raises(SourceError, match="reads from the network; say so with --online"):
        gather(source(tmp_path / "press", input=feed))
