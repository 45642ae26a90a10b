"""Read an exported model folder and refuse it when anything in it is not as its author left it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from presseco.errors import BundleError

#: Version of the bundle format that this code writes and reads (docs/bundle.md).
SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
#: The text preparation (presseco.text.prepare) that this code performs, as bundles name it.
PREPARATION = "presseco.text.prepare 1"


@dataclass(frozen=True)
class Task:
    """One question and its answers, in the order of the model's logits."""

    name: str
    labels: tuple[str, ...]
    display: tuple[str, ...]
    temperature: float
    threshold: float


@dataclass(frozen=True)
class Bundle:
    """A verified model folder. `version` is the first 12 hex digits of the manifest's digest."""

    folder: Path
    version: str
    name: str
    tasks: tuple[Task, ...]
    max_tokens: int
    models: dict[str, str]
    lineage: dict[str, Any]

    def path(self, name: str) -> Path:
        """Return the path of one of the bundle's files."""
        return self.folder / name


def read_bundle(folder: str | Path) -> Bundle:
    """Read and verify the bundle in `folder`; raise `BundleError` with the reason otherwise."""
    folder = Path(folder)
    try:
        raw = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        baseline = (folder / "baseline.json").exists()
        what = "the baseline, which only MLflow loads" if baseline else f"no {MANIFEST} here"
        raise BundleError(
            f"{folder}: {what}. Expected a folder that `make train` wrote, such as dist/camembert."
        ) from None
    except OSError as e:
        raise BundleError(f"{folder / MANIFEST}: cannot be read: {e}") from None
    try:
        manifest = json.loads(raw)
    except ValueError as e:
        raise BundleError(f"{folder / MANIFEST}: not valid JSON ({e}); the file is damaged.") from e
    found = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(found, int) or not 1 <= found <= SCHEMA_VERSION:
        raise BundleError(
            f"{folder}: bundle schema version is {found!r}, this presseco reads up to "
            f"{SCHEMA_VERSION}. Upgrade: pip install -U presseco."
        )
    try:
        bundle = _parse(folder, raw, manifest)
        files = {str(k): str(v["sha256"]) for k, v in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise BundleError(f"{folder / MANIFEST}: missing or malformed entry: {e!r}.") from e
    wanted = {"preparation": PREPARATION, "overflow": "head"}
    if bad := {k: v for k, v in wanted.items() if manifest["text"].get(k) != v}:
        raise BundleError(
            f"{folder}: the model wants text { ({k: manifest['text'].get(k) for k in bad}) }, this "
            f"presseco does {bad}. Install the presseco version that exported it."
        )
    for needed in (*bundle.models.values(), "tokenizer.json", "golden.jsonl"):
        if needed not in files:
            raise BundleError(f"{folder / MANIFEST}: {needed} has no checksum; refused.")
    for name, digest in files.items():
        _verify(folder, name, digest)
    return bundle


def _parse(folder: Path, raw: bytes, manifest: dict[str, Any]) -> Bundle:
    tasks = tuple(
        Task(
            name=str(t["name"]),
            labels=tuple(str(label["id"]) for label in t["labels"]),
            display=tuple(str(label["display"]) for label in t["labels"]),
            temperature=float(t["temperature"]),
            threshold=float(t["threshold"]),
        )
        for t in manifest["tasks"]
    )
    if not tasks or any(len(t.labels) < 2 or t.temperature <= 0 for t in tasks):
        raise ValueError("a task needs two labels or more and a temperature above 0")
    return Bundle(
        folder=folder,
        version=hashlib.sha256(raw).hexdigest()[:12],
        name=str(manifest["name"]),
        tasks=tasks,
        max_tokens=int(manifest["text"]["max_tokens"]),
        models={str(k): str(v) for k, v in manifest["models"].items()},
        lineage=dict(manifest["lineage"]),
    )


def _verify(folder: Path, name: str, digest: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name:
        raise BundleError(f"{folder}: file name {name!r} leaves the bundle's folder; refused.")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{folder}: {name} is a link out of the bundle's folder; refused.")
    try:
        with path.open("rb") as f:
            found = hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise BundleError(f"{path}: listed in {MANIFEST} but cannot be read: {e}.") from None
    if found != digest:
        raise BundleError(
            f"{path}: sha256 is {found[:12]}…, {MANIFEST} says {digest[:12]}…: damaged or changed. "
            "Copy the bundle again from where it was exported."
        )
