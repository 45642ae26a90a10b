"""Atomic writing: the old file or folder stays whole until the new one is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from presseco.errors import StoreError
from presseco.files import replacing, write_block, write_text


def test_text_is_replaced(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "un")
    write_text(path, "deux é")
    assert path.read_text(encoding="utf-8") == "deux é"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_folder_is_replaced(tmp_path):
    path = tmp_path / "model"
    for name in ("old", "new"):
        with replacing(path) as new:
            new.mkdir()
            (new / name).write_text("x")
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_folder_and_no_rest(tmp_path, error):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("x")
    with pytest.raises(type(error)), replacing(path) as new:
        new.mkdir()
        raise error
    assert [p.name for p in path.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_disk_that_refuses_is_a_clear_error(tmp_path, small_files):
    path = tmp_path / "big.txt"
    write_text(path, "old")
    with (
        small_files(1000),
        pytest.raises(StoreError, match=r"big\.txt: cannot be written: File too"),
    ):
        write_text(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["big.txt"]


def test_place_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot be written: (File exists|Not a dir)"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_failed_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("x")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target == path and self.name == path.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with pytest.raises(StoreError, match="Input/output error"), replacing(path) as new:
        new.mkdir()
        monkeypatch.setattr(Path, "rename", refuse)
    assert [p.name for p in path.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_folder_that_another_process_wrote_meanwhile(tmp_path):
    path = tmp_path / "model"
    with replacing(path) as ours:
        ours.mkdir()
        (ours / "ours").write_text("x")
        with replacing(path) as theirs:
            theirs.mkdir()
            (theirs / "theirs").write_text("x")
    assert [p.name for p in path.iterdir()] == ["ours"]


def test_block_of_a_page_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- t -->\nold\n<!-- /t -->\nb\n<!-- u -->\n<!-- /u -->\n", "utf-8")
    write_block(page, "t", "| é \\1 |\n")
    assert page.read_text("utf-8").startswith("a\n<!-- t -->\n| é \\1 |\n<!-- /t -->\nb\n<!-- u")
    for name in ("v", "."):
        with pytest.raises(StoreError, match="expected the markers"):
            write_block(page, name, "x")
