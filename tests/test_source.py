"""Source files: the ones we ship are valid, and a mistake is named with what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from presseco.errors import SourceError
from presseco.source import FeedInput, HubInput, read_source

SHIPPED = sorted((ROOT / "configs" / "source").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = """\
name: mine
rights: {licence: contract, redistribute_text: false}
input: {kind: folder, path: press}
"""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_the_sources_we_ship_are_valid_and_say_whose_the_texts_are(path):
    source = read_source(path)
    assert source.rights.licence
    assert source.online(ROOT) == (path.stem != "folder")


def test_there_is_an_example_of_every_kind():
    kinds = {read_source(p).input.kind for p in SHIPPED}
    assert kinds == {"folder", "feed", "hub"}


def test_what_is_not_said_has_a_default(tmp_path):
    source = read_source(write(tmp_path, GOOD))
    assert source.keep.languages == ["fr"]
    assert source.folder == "build/sources/mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nam: x", "unknown key 'nam' (did you mean 'name'?)"),
        ("keep: {langages: [fr]}", "unknown key 'keep.langages' (did you mean 'languages'?)"),
        ("input: {kind: folder, path: x, url: y}", "unknown key 'input.url'"),
        ("input: {kind: tape, path: x}", "input.kind must be one of folder, feed, hub"),
        ("input: {kind: feed, urls: [], contact: me}", "input.urls is []"),
        ("rights: {licence: contract}", "key 'rights.redistribute_text' is missing"),
        (
            "rights: {licence: x, redistribute_text: perhaps}",
            "rights.redistribute_text is 'perhaps'",
        ),
        ("name: Mine and yours", "name is 'Mine and yours'"),
        ("keep: {near_duplicate: 1.5}", "keep.near_duplicate is 1.5"),
        ("split: {by: luck}", "split.by is 'luck'"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(tmp_path, change, message):
    data = yaml.safe_load(GOOD) | yaml.safe_load(change)
    with pytest.raises(SourceError) as caught:
        read_source(write(tmp_path, yaml.safe_dump(data)))
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- a", "expected keys and values, found list")],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        read_source(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"none.yaml: cannot be read: No such file"):
        read_source(tmp_path / "none.yaml")


def test_the_stamp_follows_what_decides_an_article_and_not_the_rights(tmp_path):
    lexicon = write(tmp_path, "threshold: 1")
    source = read_source(ROOT / "configs" / "source" / "folder.yaml")
    rights = source.rights.model_copy(update={"redistribute_text": False})
    longer = source.keep.model_copy(update={"min_words": 99})
    first = source.stamp(lexicon)
    assert source.model_copy(update={"rights": rights}).stamp(lexicon) == first
    assert source.model_copy(update={"keep": longer}).stamp(lexicon) != first
    lexicon.write_text("threshold: 2", encoding="utf-8")
    assert source.stamp(lexicon) != first


def test_a_local_dataset_needs_no_network(tmp_path):
    (tmp_path / "saved").mkdir()
    source = read_source(ROOT / "configs" / "source" / "hub.yaml")
    assert source.online(tmp_path)
    local = source.model_copy(update={"input": HubInput(kind="hub", dataset="saved")})
    assert not local.online(tmp_path)
    feed = FeedInput(kind="feed", urls=["http://x"], contact="me")
    assert source.model_copy(update={"input": feed}).online(tmp_path)
