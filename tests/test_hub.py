"""Hub datasets: from local folders in every layout, and clear, quick words when offline."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_from_disk
from huggingface_hub import constants

from presseco.collect import collect
from presseco.corpus import Corpus
from presseco.errors import SourceError, StoreError
from presseco.hub import push_corpus, reach
from presseco.source import HubInput
from presseco.taxonomy import read_taxonomy
from presses import CONFIG, lines, source, texts

TAXONOMY = CONFIG.path(CONFIG.corpus.taxonomy)
SECTORS = ["energie", "finance"]
FEATURES = Features(
    {"text": Value("string"), "title": Value("string"), "sector": ClassLabel(names=SECTORS)}
)
ROWS = [
    {"text": t, "title": t.split("\n")[0], "sector": (0, 1, None)[i % 3]}
    for i, t in enumerate(texts(6))
]


def save(folder: Path, layout: str) -> Path:
    """Save the rows as a folder that `datasets` loads: saved to disk, or plain parquet files."""
    data = Dataset.from_list(ROWS, features=FEATURES)
    if layout == "dataset_dict":
        DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(folder))
    elif layout == "dataset":
        data.save_to_disk(str(folder))
    else:
        folder.mkdir()
        data.to_parquet(str(folder / "train-00000-of-00001.parquet"))
    return folder


def hub(tmp_path: Path, **changes: object):
    settings = {"kind": "hub", "dataset": str(tmp_path / "saved")}
    return source(tmp_path / "press", input=settings | changes)


def gather(settings, **options):
    counts = collect(settings, CONFIG, workers=0, **options)
    return counts, lines(Path(str(settings.output)) / "articles.jsonl")


@pytest.mark.parametrize("layout", ["dataset_dict", "dataset", "parquet"])
def test_a_local_dataset_becomes_articles_with_named_labels(tmp_path, layout):
    save(tmp_path / "saved", layout)
    counts, kept = gather(hub(tmp_path))
    assert [r["text"] for r in kept] == [r["text"] for r in ROWS]
    assert [r["sector"] for r in kept] == ["energie", "finance", None] * 2
    assert counts.labelled == 4


def test_a_dataset_is_read_once_and_again_when_it_changed(tmp_path):
    save(tmp_path / "saved", "parquet")
    seen: list[int] = []
    gather(hub(tmp_path), report=lambda what, *_: seen.append(int(what.split()[0])))
    gather(hub(tmp_path), report=lambda what, *_: seen.append(int(what.split()[0])))
    assert seen == [6]
    Dataset.from_list(ROWS[:2], features=FEATURES).to_parquet(
        str(tmp_path / "saved" / "train-00000-of-00001.parquet")
    )
    counts, _ = gather(hub(tmp_path))
    assert counts.read == 2


def test_columns_of_other_names_are_mapped(tmp_path):
    data = Dataset.from_list([{"corps": r["text"], "rubrique": "finance"} for r in ROWS])
    data.save_to_disk(str(tmp_path / "saved"))
    _, kept = gather(hub(tmp_path, columns={"text": "corps", "sector": "rubrique"}))
    assert {r["sector"] for r in kept} == {"finance"}


@pytest.mark.parametrize("layout", ["dataset_dict", "parquet"])
def test_a_split_that_is_not_there_is_named(tmp_path, layout):
    save(tmp_path / "saved", layout)
    with pytest.raises(SourceError, match="split nope"):
        gather(hub(tmp_path, split="nope"))


def test_switched_off_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.monotonic()
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set; unset it to go online"):
        gather(hub(tmp_path, dataset="owner/name"), online=True)
    assert time.monotonic() - start < 5


def test_unreachable_says_so_at_once_and_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"127.0.0.1:9 cannot be reached.*give its folder"):
        gather(hub(tmp_path, dataset="owner/name"), online=True)
    with pytest.raises(SourceError, match="pushing needs the hub"):
        push_corpus(object(), "owner/name", True)  # type: ignore[arg-type] # asks first
    assert time.monotonic() - start < 5


@contextmanager
def hanging_up() -> Iterator[str]:
    """Take every connection and close it without a word; give the address."""

    def hang_up(server: socket.socket) -> None:
        with suppress(OSError):  # closed, at the end
            while True:
                server.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=hang_up, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_connection_that_breaks_is_one_line(tmp_path, monkeypatch):
    save(tmp_path / "corpus" / "dataset", "dataset_dict")
    corpus = Corpus(tmp_path / "corpus", "d", read_taxonomy(TAXONOMY), {})
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    with hanging_up() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        broke = f"the connection to {address} broke: [^\n]+ Start the same command again"
        with pytest.raises(SourceError, match=f"dataset owner/name: {broke}"):
            gather(hub(tmp_path, dataset="owner/name"), online=True)
        with pytest.raises(StoreError, match=f"dataset owner/name: {broke}"):
            push_corpus(corpus, "owner/name", True)


def test_an_open_door_is_enough_to_try(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        reach("reading")


@pytest.mark.parametrize("free", [True, False])
def test_what_is_pushed_holds_text_only_where_the_rights_allow_it(tmp_path, monkeypatch, free):
    """The library's upload is replaced by a folder; what reaches it is what would leave."""

    def upload(self: DatasetDict, name: str, private: bool) -> None:
        assert (name, private) == ("owner/name", True)
        self.save_to_disk(str(tmp_path / "pushed"))

    monkeypatch.setattr(DatasetDict, "push_to_hub", upload)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    save(tmp_path / "corpus" / "dataset", "dataset_dict")
    corpus = Corpus(tmp_path / "corpus", "d", read_taxonomy(TAXONOMY), {})
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert push_corpus(corpus, "owner/name", free) == f"{endpoint}/datasets/owner/name"
    pushed = load_from_disk(str(tmp_path / "pushed"))["train"]
    assert pushed["text"][:] == [r["text"] if free else "" for r in ROWS]
    assert pushed["title"][:] == [r["title"] if free else "" for r in ROWS]
    assert pushed.features["sector"].names == SECTORS
    assert pushed["sector"][:] == [r["sector"] for r in ROWS]


def test_a_name_needs_the_word_and_a_folder_does_not(tmp_path):
    assert hub(tmp_path, dataset="owner/name").online(tmp_path)
    with pytest.raises(SourceError, match="say so with --online"):
        gather(hub(tmp_path, dataset="owner/name"))
    (tmp_path / "saved").mkdir()
    inside = source(tmp_path, input=HubInput(kind="hub", dataset="saved").model_dump())
    assert not inside.online(tmp_path)
