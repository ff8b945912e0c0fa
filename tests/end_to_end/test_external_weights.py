"""A bundle of another program, whose weights are in a file of their own: hashed, loaded, counted, or refused."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from q8bert.runtime import Classifier, RuntimeOptions
from q8bert.spec.errors import BundleError, ConfigError

pytestmark = pytest.mark.skipif(
    not hasattr(ort.SessionOptions, "add_external_initializers_from_files_in_memory"),
    reason="this release of ONNX Runtime reads such files by itself alone",
)
TEXTS = ["a good film", "the plot was dull", ""]


@pytest.fixture
def bundle(small: Any, tmp_path: Path) -> Path:
    source, target = small.bundle("SST-2", "float32"), tmp_path / "bundle"
    shutil.copytree(source, target)
    onnx.save_model(
        onnx.load(source / "model.onnx"), target / "model.onnx", save_as_external_data=True,
        all_tensors_to_one_file=True, location="weights.bin", size_threshold=100,
    )  # fmt: skip
    sign(target, "model.onnx", "weights.bin")
    return target


def sign(bundle: Path, *names: str) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in names:
        content = (bundle / name).read_bytes()
        manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_named_weights_are_loaded_and_counted(small: Any, bundle: Path) -> None:
    whole, apart = (Classifier.load(path, threads=1) for path in (small.bundle("SST-2", "float32"), bundle))
    np.testing.assert_array_equal(apart.logits(TEXTS), whole.logits(TEXTS))
    weights = (bundle / "weights.bin").stat().st_size
    assert apart.bundle.model_size_bytes == (bundle / "model.onnx").stat().st_size + weights
    assert weights > (bundle / "model.onnx").stat().st_size


def test_altered_weights_are_refused(bundle: Path) -> None:
    content = bytearray((bundle / "weights.bin").read_bytes())
    content[1000] ^= 1
    (bundle / "weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin has SHA-256"):
        Classifier.load(bundle)


def test_weights_that_the_manifest_does_not_name_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]["weights.bin"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(bundle)  # ONNX Runtime would find them there
    with pytest.raises(BundleError, match=r"takes weights from 'weights\.bin', which manifest\.json does not name"):
        Classifier.load(bundle)


def test_such_a_model_is_not_cached(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cache_dir cannot be used with a model whose weights are in other files"):
        Classifier.load(bundle, options=RuntimeOptions(cache_dir=tmp_path / "cache"))
