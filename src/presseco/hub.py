"""The Hugging Face hub: read a dataset by name as a source, push a built corpus (both opt-in)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from presseco.collection import Collection
from presseco.corpus import Corpus
from presseco.document import Piece
from presseco.errors import SourceError, StoreError
from presseco.network import knock
from presseco.source import HubInput


def pieces(source: HubInput, root: Path, collection: Collection) -> Iterator[Piece]:
    """Yield the dataset's rows that the collection does not have yet, streaming.

    Raises `SourceError` at once when the hub cannot be reached or does not have the dataset.
    """
    local = root / source.dataset
    name = f"{source.dataset}/{source.subset or 'default'}/{source.split}"
    version = _local_version(local) if local.exists() else _hub_version(source)
    done = collection.progress(name, 0, version)
    if done.finished:
        return
    rows = _open(source, local)
    names = _label_names(rows)
    row = start = done.resume
    try:
        for row, fields in enumerate(rows.skip(start), start + 1):
            yield Piece(name, row, row, "row", fields=_named(fields, names))
    except _refusals() as e:
        raise SourceError(
            f"dataset {source.dataset}: stopped after row {row}: {_line(e)}. "
            "The same command goes on from there."
        ) from None
    yield Piece(name, row + 1, row, final=True)


def push_corpus(corpus: Corpus, name: str, redistribute_text: bool) -> str:
    """Push the corpus as a private dataset, less texts that may not leave; return its address."""
    reach("pushing")
    data = corpus.load()
    if not redistribute_text:
        data = data.map(lambda _: {"text": "", "title": ""})
    try:
        data.push_to_hub(name, private=True)
    except _refusals() as e:
        advice = "Log in with `hf auth login` and check the name (owner/name)."
        raise StoreError(f"dataset {name}: {_told(e, advice)}") from None
    return f"{_endpoint()}/datasets/{name}"


def reach(what: str) -> None:
    """Raise `SourceError` at once when the hub is switched off or does not answer."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        raise SourceError(f"{what} needs the hub, and HF_HUB_OFFLINE is set; unset it to go online")
    try:
        knock(_endpoint())  # its own client tries for 23 to 46 s before it says no
    except OSError as e:
        raise SourceError(
            f"{what} needs the hub, and {_endpoint()} cannot be reached: {e}. "
            "A downloaded dataset works offline: give its folder as input.dataset."
        ) from None


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub_version(source: HubInput) -> int:
    from huggingface_hub import HfApi

    reach(f"dataset {source.dataset}")
    try:
        info = HfApi().dataset_info(source.dataset, revision=source.revision)
    except _refusals() as e:
        advice = (
            "Check the name (owner/name), the revision, and `hf auth login` for a private one. "
            "A local folder must exist."
        )
        raise SourceError(f"dataset {source.dataset}: {_told(e, advice)}") from None
    return int((info.sha or "0")[:15], 16)


def _local_version(path: Path) -> int:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return max((f.stat().st_mtime_ns for f in files), default=0)


def _open(source: HubInput, local: Path) -> Any:
    import datasets

    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            saved = datasets.load_from_disk(str(local))
            rows = saved[source.split] if isinstance(saved, datasets.DatasetDict) else saved
            return rows.to_iterable_dataset()
        where = str(local) if local.exists() else source.dataset
        return datasets.load_dataset(
            where, name=source.subset, split=source.split, revision=source.revision, streaming=True
        )
    except (*_refusals(), KeyError, datasets.exceptions.DatasetsError) as e:
        raise SourceError(f"dataset {source.dataset}, split {source.split}: {_line(e)}") from None


def _label_names(rows: Any) -> dict[str, Any]:
    features = rows.features or {}
    return {c: f for c, f in features.items() if type(f).__name__ == "ClassLabel"}


def _named(fields: Mapping[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """Return the row with class numbers replaced by their names; -1 means no label."""
    out = dict(fields)
    for column, feature in names.items():
        value = out[column]
        out[column] = feature.int2str(value) if value is not None and value >= 0 else None
    return out


def _refusals() -> tuple[type[Exception], ...]:
    """Return what the hub's client raises; a connection that breaks is no `OSError` for it."""
    # Its own HTTP library's, which has changed before and is only named there.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return HTTPError, OSError, ValueError


def _told(e: Exception, advice: str) -> str:
    """Return what the hub said and `advice`, or that the connection to it broke."""
    if isinstance(e, (OSError, ValueError)):
        return f"the hub refused: {_line(e)}. {advice}"
    return f"the connection to {_endpoint()} broke: {_line(e)}. Start the same command again."


def _line(e: Exception) -> str:
    return (str(e).strip() or type(e).__name__).split("\n", 1)[0][:300]
