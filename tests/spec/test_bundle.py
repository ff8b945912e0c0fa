"""A bundle is read whole, or refused with the file and the remedy named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from q8bert.spec.bundle import open_bundle
from q8bert.spec.errors import BundleError
from q8bert.tasks.glue import glue_task
from q8bert.tasks.task import task_from_json

# as version 0.1.0 wrote it, with the files that are written below
MANIFEST_JSON = """
{
  "format_version": 1,
  "precision": "int8",
  "task": {
    "name": "SST-2", "text_column": "sentence", "text_pair_column": null, "label_column": "label",
    "labels": ["negative", "positive"], "metrics": ["accuracy"], "label_codes": ["0", "1"], "files": {},
    "headerless_columns": [], "hub_name": "sst2", "has_training_data": true
  },
  "max_length": 32, "pad_token_id": 0, "input_names": ["input_ids", "attention_mask", "token_type_ids"],
  "files": {
    "model.onnx": {
      "size_bytes": 5, "sha256": "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"
    },
    "tokenizer.json": {
      "size_bytes": 2, "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    }
  },
  "quantization": {
    "method": "qat", "num_bits": 8,
    "products": {"onnxruntime": "1.19.2", "n_integer": 10, "n_float": 0, "float_products": []}, "quantize_from": 0.0,
    "weight_granularity": "per_channel", "float_layers": [], "smoothed_activations": [],
    "activation_scales": {"classifier.input": 0.006244473159313202},
    "weight_scales": {"bert.embeddings.word_embeddings.weight": [0.0009051488596014678]}
  },
  "metrics": {"accuracy": 0.945},
  "versions": {"python": "3.11.7", "q8bert": "0.1.0", "opset": "20"},
  "model": {
    "source": "model", "architecture": "BertForSequenceClassification", "family": "bert", "n_parameters": 13570,
    "seed": 11, "checkpoint_step": 76
  }
}
"""


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


def test_a_bundle_of_earlier_days_is_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(MANIFEST_JSON)
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    bundle = open_bundle(tmp_path)
    assert bundle.manifest.to_json() == json.loads(MANIFEST_JSON) | {"data": {}}
    assert task_from_json(bundle.manifest.task, source="x") == glue_task("SST-2")
    assert bundle.model_size_bytes == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=99), r"format_version is 99, this release reads 1\. Export the run again"),
        (lambda m: m.update(precision="int4"), "precision is 'int4', allowed are int8, float32"),
        (lambda m: m.update(max_length="long"), "max_length must be a whole number, got 'long'"),
        (lambda m: m.update(max_length=1), "max_length is 1, must be at least 3"),
        (lambda m: m.update(input_names=["pixels"]), r"input_names is \['pixels'\], allowed are input_ids"),
        (lambda m: m.update(input_names=["input_ids", "input_ids"]), "each once"),
        (
            lambda m: m.update(input_names=["input_ids", {}]),
            r"input_names must be a list of texts, got \['input_ids', \{\}\]",
        ),
        (lambda m: m.update(pad_token_id=-1), "pad_token_id is -1, must be at least 0"),
        (lambda m: m.pop("task"), "task must be an object of values, but is missing"),
        (lambda m: m["files"].pop("tokenizer.json"), "files: tokenizer.json is not listed"),
        (lambda m: m["files"]["model.onnx"].pop("sha256"), "files: model.onnx: sha256 must be a text, but is missing"),
        (lambda m: m["files"]["model.onnx"].update(sha256=5), "files: model.onnx: sha256 must be a text, got 5"),
        (lambda m: m["files"].update(other=[]), r"files: other must be an object with size_bytes, sha256, got \[\]"),
        (lambda m: m.update(files=[]), r"files must be an object of objects, got \[\]"),
        (lambda m: m.update(metrics={"accuracy": "high"}), "metrics must be an object of finite numbers"),
        (lambda m: m.update(pad_token_id=True), "pad_token_id must be a whole number, got True"),
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
