"""The exported folder keeps its contract, and a loader refuses one that is not as it was written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import ROOT
from presseco.bundle import MANIFEST, read_bundle
from presseco.errors import BundleError


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")


def test_manifest_fits_its_published_schema(tiny_bundle: Path) -> None:
    schema = json.loads((ROOT / "docs" / "bundle.schema.json").read_text("utf-8"))
    manifest = json.loads((tiny_bundle / MANIFEST).read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    assert not list(validator.iter_errors(manifest))
    for key in ("tasks", "text", "models", "files", "schema_version"):
        assert list(validator.iter_errors({k: v for k, v in manifest.items() if k != key})), key
    escaping = {**manifest, "models": {"fp32": "../model.onnx"}}
    assert list(validator.iter_errors(escaping))


def test_every_file_has_its_checksum_and_none_is_code(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / MANIFEST).read_text("utf-8"))
    found = {p.relative_to(tiny_bundle).as_posix() for p in tiny_bundle.rglob("*") if p.is_file()}
    assert found == {*manifest["files"], MANIFEST}
    assert {"LICENSE", "NOTICE", "README.md", "hf/config.json"} <= found
    assert not [name for name in found if name.endswith((".py", ".pkl", ".bin", ".pt", ".joblib"))]
    for name, entry in manifest["files"].items():
        data = (tiny_bundle / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_reads_back_what_was_exported(tiny_bundle: Path) -> None:
    bundle = read_bundle(tiny_bundle)
    assert [t.name for t in bundle.tasks] == ["sector", "event_type", "sentiment"]
    assert [len(t.labels) for t in bundle.tasks] == [14, 15, 3]
    assert bundle.tasks[0].display[4] == "Énergie et environnement"
    assert (bundle.max_tokens, bundle.name) == (96, "presseco-tiny")
    assert bundle.version == hashlib.sha256((tiny_bundle / MANIFEST).read_bytes()).hexdigest()[:12]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_is_refused(copy: Path, data: st.DataObject) -> None:
    names = ["model.onnx", "model.int8.onnx", "tokenizer.json", "golden.jsonl", "hf/config.json"]
    path = copy / data.draw(st.sampled_from(names))
    before = path.read_bytes()
    changed = bytearray(before)
    changed[data.draw(st.integers(0, len(before) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        with pytest.raises(BundleError, match=r"sha256 is .* damaged or changed"):
            read_bundle(copy)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["model.int8.onnx", "tokenizer.json", "NOTICE"])
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: listed in bundle.json but cannot be read"):
        read_bundle(copy)


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"no bundle.json here. Expected a folder that `make train`"
    ):
        read_bundle(tmp_path)


@pytest.mark.parametrize("version", [2, "1", None, 0])
def test_other_schema_version_is_refused(copy: Path, version: object) -> None:
    change(copy, lambda m: m.update(schema_version=version))
    with pytest.raises(BundleError, match=r"schema version is .* reads up to 1. Upgrade"):
        read_bundle(copy)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "hf/../../x", "C:\\x", "..\\x", "hf\\config.json"]
)
def test_path_out_of_the_folder_is_refused(copy: Path, name: str) -> None:
    change(copy, lambda m: m["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(BundleError, match="leaves the bundle's folder; refused"):
        read_bundle(copy)


def test_link_out_of_the_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "tokenizer.json", tmp_path / "elsewhere.json")
    (copy / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match="link out of the bundle's folder"):
        read_bundle(copy)


def test_model_without_checksum_is_refused(copy: Path) -> None:
    change(copy, lambda m: m["models"].update(int8="other.onnx"))
    with pytest.raises(BundleError, match=r"other.onnx has no checksum"):
        read_bundle(copy)


@pytest.mark.parametrize(("key", "value"), [("preparation", "other 2"), ("overflow", "windows")])
def test_other_text_preparation_is_refused(copy: Path, key: str, value: str) -> None:
    change(copy, lambda m: m["text"].update({key: value}))
    with pytest.raises(BundleError, match=f"the model wants text .*{value}.*Install the presseco"):
        read_bundle(copy)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.pop("tasks"),
        lambda m: m["tasks"][0].pop("temperature"),
        lambda m: m["tasks"][0].update(temperature=0),
        lambda m: m["tasks"][0].update(labels=[]),
        lambda m: m.update(files=[]),
        lambda m: m.update(tasks=[]),
        lambda m: m.update(text=None),
        lambda m: m.update(models=3),
    ],
)
def test_malformed_manifest_is_refused(
    copy: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(copy, edit)
    with pytest.raises(BundleError, match="missing or malformed entry"):
        read_bundle(copy)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"null"])
def test_manifest_that_is_no_object(copy: Path, raw: bytes) -> None:
    (copy / MANIFEST).write_bytes(raw)
    with pytest.raises(BundleError):
        read_bundle(copy)
