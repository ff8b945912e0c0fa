"""Bundles with other forms of their model: named, checked, and chosen by the provider."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q8bert.export import export
from q8bert.export import target_graphs as module
from q8bert.runtime import Classifier
from q8bert.runtime.predict.loading import _graph_name
from q8bert.spec.bundle.bundle import Bundle, load_bundle, open_bundle
from q8bert.spec.errors import BundleError, ConfigError, ExportError

TEXTS = ["a great film", "dull", "a clever and very funny story"]
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture(scope="module")
def bundle(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("targets") / "int8"
    made, _ = export(small.run("SST-2", "int8"), target, targets=("cuda", "float16"), check_parity=False)
    return made


def test_the_bundle_has_both_forms_and_counts_its_model_alone(small: Any, bundle: Bundle) -> None:
    targets = bundle.manifest.targets
    assert {name: target.file for name, target in targets.items()} == {
        "cuda": "model.cuda.onnx", "float16": "model.float16.onnx",
    }  # fmt: skip
    assert (targets["cuda"].max_abs_diff, targets["cuda"].n_rows) == (0.0, 16)
    assert 0 < targets["float16"].max_abs_diff < 1
    assert bundle.model_size_bytes == (bundle.path / "model.onnx").stat().st_size
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert "- Also for cuda: `model.cuda.onnx`" in card
    alone = open_bundle(small.bundle("SST-2", "int8"))
    assert alone.manifest.targets == {}
    for path, has_some in ((bundle.path, True), (alone.path, False)):
        assert ("targets" in json.loads((path / "manifest.json").read_text(encoding="utf-8"))) is has_some


@pytest.mark.parametrize(
    ("graph", "precision", "n_integer"), [("main", "int8", 11), ("cuda", "int8", 11), ("float16", "float", 0)]
)
def test_each_form_gives_answers_and_says_what_it_is(
    bundle: Bundle, graph: str, precision: str, n_integer: int
) -> None:
    classifier = Classifier.load(bundle.path, threads=1, graph=graph)
    expected = Classifier.load(bundle.path, threads=1).logits(TEXTS)
    atol = 1e-5 if graph != "float16" else 5 * bundle.manifest.targets["float16"].max_abs_diff
    np.testing.assert_allclose(classifier.logits(TEXTS), expected, rtol=0, atol=atol)
    assert classifier.graph == graph
    assert classifier.products is not None
    assert classifier.products.n_integer == n_integer
    assert classifier.precision.startswith(precision)
    assert (f"graph for {graph}" in classifier.precision_note) is (graph != "main")
    again = Classifier.load(*classifier.__reduce__()[1][:1], threads=1, graph=classifier.graph)
    assert again.graph == graph


@pytest.mark.parametrize(
    ("engine", "providers", "asked", "chosen"),
    [
        ("onnxruntime", [CPU], "auto", "main"), ("onnxruntime", [CUDA], "auto", "cuda"),
        ("onnxruntime", [CUDA, CPU], "auto", "cuda"), ("onnxruntime", [CUDA], "float16", "float16"),
        ("onnxruntime", [CUDA], "main", "main"), ("onnxruntime", [TENSORRT, CUDA], "auto", "main"),
        ("openvino", [CPU], "auto", "main"),
    ],
)  # fmt: skip
def test_the_first_provider_chooses_unless_told(
    bundle: Bundle, engine: str, providers: list[str], asked: str, chosen: str
) -> None:
    assert _graph_name(bundle.manifest, engine, providers, asked) == chosen


def test_a_form_that_the_bundle_has_not_is_refused(small: Any) -> None:
    with pytest.raises(ConfigError, match="graph 'cuda' was asked for, but the bundle has main"):
        Classifier.load(small.bundle("SST-2", "int8"), graph="cuda")
    with pytest.raises(ConfigError, match="graph must be one of auto, main, cuda, float16"):
        Classifier.load(small.bundle("SST-2", "int8"), graph="metal")


def test_only_the_form_that_is_wanted_is_returned_and_all_are_checked(bundle: Bundle, tmp_path: Path) -> None:
    _, contents = load_bundle(bundle.path, model_file=lambda manifest: manifest.targets["cuda"].file)
    assert set(contents) == {"model.cuda.onnx", "tokenizer.json"}
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in bundle.path.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / "model.cuda.onnx").write_bytes(b"\0" * (bundle.path / "model.cuda.onnx").stat().st_size)
    with pytest.raises(BundleError, match=r"model\.cuda\.onnx has SHA-256"):
        Classifier.load(copied)


@pytest.mark.parametrize(
    "targets",
    [
        {"metal": {"file": "model.onnx", "max_abs_diff": 0.0, "n_rows": 1}},
        {"cuda": {"file": "tokenizer.json", "max_abs_diff": 0.0, "n_rows": 1}},
        {"cuda": {"file": "model.cuda.onnx", "max_abs_diff": 0.0, "n_rows": 1}},
    ],
)
def test_a_manifest_that_names_other_files_as_forms_is_refused(small: Any, tmp_path: Path, targets: Any) -> None:
    source = small.bundle("SST-2", "int8")
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"targets": targets}), encoding="utf-8")
    with pytest.raises(BundleError, match="is none of cuda, float16, each with its own file"):
        open_bundle(tmp_path)


def test_targets_that_do_not_go_with_the_model_are_refused(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target cuda multiplies in INT8, and the model is a float one"):
        export(small.run("SST-2", "float32"), tmp_path / "a", targets=("cuda",))
    with pytest.raises(ConfigError, match="quantization dynamic makes none"):
        export(small.run("SST-2", "float32"), tmp_path / "b", quantization="dynamic", targets=("float16",))
    with pytest.raises(ConfigError, match="targets"):
        export(small.run("SST-2", "int8"), tmp_path / "c", targets=("metal",))
    assert not list(tmp_path.iterdir())


def test_a_form_that_computes_something_else_is_refused(small: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def wrong(target: str, graph: Any) -> Any:
        made = importlib.import_module("q8bert.export.graph.targets").graph_for(target, graph)
        (bias,) = (tensor for tensor in made.graph.initializer if tensor.name == "classifier.bias")
        bias.raw_data = np.full(2, 0.01, dtype=np.float32).tobytes()
        return made

    monkeypatch.setattr(module, "graph_for", wrong)
    with pytest.raises(ExportError, match="target cuda does not compute what the model does"):
        export(small.run("SST-2", "int8"), tmp_path / "int8", targets=("cuda",), check_parity=False)
