"""Write files and folders so that a crash or a full disk leaves the old ones, never half of one."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from presseco.errors import StoreError

#: How often a folder is swapped in again when another process does the same at the same moment.
_ATTEMPTS = 3


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` through a temporary file beside it, then rename."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, on error it is removed.

    The block may create a file or a folder there. Raises `StoreError` when the disk refuses.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        target = temporary / path.name
        yield target
        _swap(target, path, temporary)
    except OSError as e:
        raise StoreError(
            f"{path}: cannot be written: {e.strerror or e}. Nothing was changed. "
            "Check free space and permissions."
        ) from e
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_block(page: str | Path, name: str, text: str) -> None:
    """Put `text` between the markers `<!-- name -->` and `<!-- /name -->` of a Markdown page.

    Raises `StoreError` when the page has not exactly one such pair.
    """
    found = Path(page).read_text(encoding="utf-8")
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)"
    new, count = re.subn(
        pattern, lambda m: f"{m[1]}{text.rstrip()}\n{m[2]}", found, flags=re.DOTALL
    )
    if count != 1:
        raise StoreError(f"{page}: expected the markers <!-- {name} --> and <!-- /{name} --> once")
    write_text(Path(page), new)


def _swap(new: Path, path: Path, spare: Path) -> None:
    if not new.is_dir():
        new.replace(path)
        return
    for attempt in range(_ATTEMPTS):
        # A folder cannot be renamed over a full one: step the old one aside first.
        old = spare / f"old-{attempt}"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.rename(old)
        try:
            new.rename(path)
            return
        except OSError:
            if path.exists() and attempt + 1 < _ATTEMPTS:
                continue  # another process put its folder there in between
            if old.exists() and not path.exists():
                old.rename(path)
            raise
