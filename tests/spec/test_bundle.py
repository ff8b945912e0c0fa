"""A bundle is read whole, or refused with the file and the remedy named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from q8bert.spec.bundle import open_bundle
from q8bert.spec.errors import BundleError


@pytest.fixture
def copy(small: Any, tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    shutil.copytree(small.bundle("SST-2", "int8"), target)
    return target


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_whole_bundle_is_read(copy: Path) -> None:
    bundle = open_bundle(copy)
    assert bundle.manifest.precision == "int8"
    assert bundle.model_size_bytes == (copy / "model.onnx").stat().st_size
    assert set(bundle.manifest.files) == {path.name for path in copy.iterdir()} - {"manifest.json"}
    assert {"README.md", "model.onnx", "parity.json", "tokenizer.json"} <= set(bundle.manifest.files)
    assert bundle.manifest.quantization["activation_scales"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=99), r"format_version is 99, this release reads 1\. Export the run again"),
        (lambda m: m.update(precision="int4"), "precision is 'int4', allowed are int8, float32"),
        (lambda m: m.update(max_length="long"), "max_length must be int, is 'long'"),
        (lambda m: m.update(max_length=1), "max_length is 1, must be at least 3"),
        (lambda m: m.update(input_names=["pixels"]), r"input_names is \['pixels'\], allowed are input_ids"),
        (lambda m: m.update(input_names=["input_ids", "input_ids"]), "each once"),
        (lambda m: m.update(input_names=["input_ids", {}]), r"input_names is \['input_ids', \{\}\]"),
        (lambda m: m.update(pad_token_id=-1), "pad_token_id is -1, must be at least 0"),
        (lambda m: m.pop("task"), "task must be dict, is None"),
        (lambda m: m["files"].pop("tokenizer.json"), "files: tokenizer.json is not listed"),
        (lambda m: m["files"]["model.onnx"].pop("sha256"), "'model.onnx' needs size_bytes and sha256"),
        (lambda m: m["files"]["model.onnx"].update(sha256=5), "'model.onnx' needs size_bytes and sha256"),
        (lambda m: m["files"].update({"../x": {"size_bytes": 1, "sha256": ""}}), "plain file name"),
    ],
)
def test_a_fault_in_the_manifest_is_named(copy: Path, change: Any, message: str) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(copy)


def test_a_missing_truncated_or_altered_file_is_named(copy: Path) -> None:
    model = copy / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"model\.onnx has {len(content) - 1} bytes.*Copy the bundle again"):
        open_bundle(copy)
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"model\.onnx has SHA-256"):
        open_bundle(copy)
    model.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        open_bundle(copy)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json\. Make one with `q8bert export`"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("not json")
    with pytest.raises(BundleError, match="not readable as JSON"):
        open_bundle(tmp_path)


def test_weights_in_an_unlisted_file_are_refused(copy: Path) -> None:
    (copy / "model.onnx.data").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"model\.onnx\.data is there but not in the manifest"):
        open_bundle(copy)
