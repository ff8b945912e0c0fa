"""A bundle is read whole, or refused with the file and the remedy named."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from q8bert.spec.bundle.bundle import load_bundle, open_bundle
from q8bert.spec.errors import BundleError, ConfigError
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


@pytest.fixture
def altered_files() -> Callable[..., None]:
    """Write files into a bundle and have its manifest name them."""

    def alter(bundle: Path, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            (bundle / name).write_bytes(content)
            record = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            edit(bundle, lambda manifest, name=name, record=record: manifest["files"].update({name: record}))  # type: ignore[misc]

    return alter


def test_a_whole_bundle_is_read(copy: Path) -> None:
    bundle = open_bundle(copy)
    assert bundle.manifest.precision == "int8"
    assert bundle.model_size_bytes == (copy / "model.onnx").stat().st_size
    assert set(bundle.manifest.files) == {path.name for path in copy.iterdir()} - {"manifest.json", "README.md"}
    assert set(bundle.manifest.files) == {
        "config.json", "model.onnx", "parity.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    # the scale of every weight stands in the graph
    assert (copy / "manifest.json").stat().st_size < 10_000
    assert bundle.manifest.quantization["activation_scales"]


def test_a_bundle_of_earlier_days_is_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(MANIFEST_JSON)
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    bundle = open_bundle(tmp_path)
    # its model was trained on texts whose special tokens were obeyed
    assert bundle.manifest.to_json() == json.loads(MANIFEST_JSON) | {
        "data": {}, "obey_special_tokens": True, "format_version": 2,
    }  # fmt: skip
    assert task_from_json(bundle.manifest.task, source="x") == glue_task("SST-2")
    assert bundle.model_size_bytes == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update(format_version=99),
            r"format_version is 99, this release reads 1 and 2\. Export the run again",
        ),
        (lambda m: m.update(precision="int4"), "precision is 'int4', allowed are int8, float32"),
        (lambda m: m.update(max_length="long"), "max_length must be a whole number, got 'long'"),
        (lambda m: m.update(max_length=1), "max_length is 1, must be from 3 to 65536"),
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


@pytest.mark.parametrize("version", [1, 2])
def test_an_edited_or_missing_model_card_stops_nothing(copy: Path, version: int) -> None:
    card = {"size_bytes": 5, "sha256": hashlib.sha256(b"words").hexdigest()}
    edit(copy, lambda m: m.update(format_version=version))
    if version == 1:  # which named it
        edit(copy, lambda m: m["files"].update({"README.md": card}))
    (copy / "README.md").write_text("other words")
    assert open_bundle(copy).model_size_bytes == load_bundle(copy)[0].model_size_bytes
    (copy / "README.md").unlink()
    assert open_bundle(copy).model_size_bytes == (copy / "model.onnx").stat().st_size


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


def tensor_in(location: str) -> bytes:
    """A model of one tensor whose weights are elsewhere, by the numbers of the fields in onnx.proto."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    entry = field(1, b"location") + field(2, location.encode())
    return field(7, field(5, field(13, entry)))


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd", "README.md/../weights.bin", ""])
def test_weights_in_a_file_that_the_manifest_does_not_name_are_refused(
    copy: Path, altered_files: Callable[..., None], location: str
) -> None:
    (copy / "weights.bin").write_bytes(b"x")
    altered_files(copy, {"model.onnx": tensor_in(location)})
    with pytest.raises(BundleError, match=r"takes weights from .*, which manifest\.json does not name"):
        load_bundle(copy)


def test_weights_in_a_file_that_the_manifest_names_are_read_with_it(
    copy: Path, altered_files: Callable[..., None]
) -> None:
    altered_files(copy, {"model.onnx": tensor_in("weights.bin"), "weights.bin": b"some weights", "more.bin": b"x"})
    bundle, contents = load_bundle(copy)
    assert contents.keys() == {"model.onnx", "tokenizer.json", "weights.bin"}
    assert contents["weights.bin"] == b"some weights"
    assert bundle.model_size_bytes == len(tensor_in("weights.bin")) + len(b"some weights") + 1
    (copy / "weights.bin").write_bytes(b"OTHER weight")
    with pytest.raises(BundleError, match=r"weights\.bin has SHA-256"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "parity.json", "config.json"])
def test_converted_line_ends_are_named_as_such(copy: Path, name: str) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(BundleError, match=f"the line ends of {name} were converted to those of Windows"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "brackets without end"),
        ('{"a":' * 100_000, "brackets without end"),
        ("1" * 5000, "not readable as JSON"),
    ],
)
def test_a_manifest_without_end_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(max_length=10**30), "max_length is 1000000000000000000000000000000, must be"),
        (lambda manifest: manifest.update(max_length=65_537), "max_length is 65537, must be from 3 to 65536"),
        (lambda manifest: manifest["task"].update(labels=["good", "\ud800"]), "labels must be a list of texts"),
        (lambda manifest: manifest["task"].update(name="\udfff"), "name must be a text"),
        (lambda manifest: manifest["task"].update(files={"dev": "\ud800"}), "files must be"),
        (
            lambda manifest: manifest["files"].update({"\ud800": manifest["files"]["tokenizer.json"]}),
            "no plain file name",
        ),
        (
            lambda manifest: manifest["files"].update({"a\0b": manifest["files"]["tokenizer.json"]}),
            "no plain file name",
        ),
        (lambda manifest: manifest["files"].update({"..": manifest["files"]["tokenizer.json"]}), "no plain file name"),
        (
            lambda manifest: manifest["files"].update({"a\\b": manifest["files"]["tokenizer.json"]}),
            "no plain file name",
        ),
        (lambda manifest: manifest["files"]["tokenizer.json"].update(size_bytes=-1), "size_bytes"),
        (lambda manifest: manifest["task"].update(files={"dev": "../../secret.tsv"}), "leaves the data folder"),
        (lambda manifest: manifest["task"].update(files={"dev": "/etc/passwd"}), "leaves the data folder"),
        (lambda manifest: manifest["task"].update(files={"dev": "a/../../b"}), "leaves the data folder"),
        (lambda manifest: manifest["task"].update(files={"dev": "C:\\secret.tsv"}), "leaves the data folder"),
        (lambda manifest: manifest["task"].update(files={"dev": "a\0b"}), "leaves the data folder"),
    ],
)
def test_a_hostile_manifest_is_refused(copy: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(copy, change)
    with pytest.raises((BundleError, ConfigError), match=message) as caught:
        task_from_json(open_bundle(copy).manifest.task, source="manifest")
    str(caught.value).encode("utf-8")  # it can be printed
