"""Other runtimes on the exported graphs: the newest ONNX Runtime, and OpenVINO. Needs an environment of its own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from q8bert.export.fusion import examine_fusion
from q8bert.glue.readers import read_split
from q8bert.glue.tasks import glue_task
from q8bert.runtime import Classifier
from q8bert.runtime.session import Session

GRAPHS = sorted(Path(os.environ.get("Q8BERT_TEST_GRAPHS", "")).glob("*.onnx"))

pytestmark = pytest.mark.skipif(not GRAPHS, reason="needs exported graphs: Q8BERT_TEST_GRAPHS is not set")
each_graph = pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)


def saved(path: Path) -> tuple[dict[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Return a graph's inputs, and what it gave on ONNX Runtime 1.19.2."""
    arrays = np.load(path.with_suffix(".npz"))
    inputs = {name: arrays[name] for name in arrays.files if name in {"input_ids", "attention_mask", "token_type_ids"}}
    return inputs, arrays


def assert_same_but_for_ties(logits: np.ndarray, before: Mapping[str, np.ndarray]) -> None:
    """Most rows nearly equal, none farther than quantization itself goes.

    Floats are summed in another order, so an activation on a rounding tie may fall otherwise, and what follows from it
    may be as large as the effect of quantization in the row it happens in; a defect moves every row.
    """
    rows = np.abs(logits - before["logits"]).max(axis=1)
    effect = float(np.abs(before["logits"] - before["floats"]).max())
    assert float(np.median(rows)) < 0.25 * effect
    assert float(rows.max()) < 2 * effect


def openvino_logits(model: Path, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    openvino = pytest.importorskip("openvino", reason="needs openvino")
    core = openvino.Core()
    # not bfloat16, which OpenVINO takes by default where the CPU has it
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits: np.ndarray = compiled({name: inputs[name] for name in inputs})[compiled.output("logits")]
    return logits


@each_graph
def test_no_product_with_a_weight_runs_in_float(path: Path) -> None:
    report = examine_fusion(onnx.load(path))
    assert report.onnxruntime == ort.__version__
    assert report.float_products == ()
    assert (report.n_integer, report.n_float) == (int(saved(path)[1]["n_products"]), 0)


@each_graph
def test_releases_agree(path: Path) -> None:
    inputs, before = saved(path)
    assert_same_but_for_ties(Session(path.read_bytes()).run(inputs), before)


@each_graph
def test_logits_are_bit_equal_for_any_number_of_threads(path: Path) -> None:
    inputs, _ = saved(path)
    first, *others = (Session(path.read_bytes(), threads=n).run(inputs) for n in (1, 2, 3))
    for other in others:
        np.testing.assert_array_equal(other, first)


@each_graph
def test_openvino_gives_the_same(path: Path) -> None:
    inputs, before = saved(path)
    assert_same_but_for_ties(openvino_logits(path, inputs), before)


@pytest.mark.parametrize("task", ["SST-2", "STS-B"])
def test_openvino_predicts_what_the_classifier_predicts(small: Any, task: str) -> None:
    classifier = Classifier.load(small.bundle(task, "int8"))
    rows = read_split(glue_task(task), small.data(task), "dev").examples
    pairs = [row.text_pair or "" for row in rows] if classifier.task.text_pair_column else None
    texts = [row.text for row in rows]
    expected = classifier.logits(texts, pairs, batch_size=1)
    encoded = classifier._tokenizer.encode(texts, pairs)
    for number in range(0, len(rows), 10):
        ids = encoded.input_ids[number][None]
        types = encoded.token_type_ids[number][None]
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
        names = classifier.bundle.manifest.input_names
        logits = openvino_logits(classifier.bundle.model_path, {name: inputs[name] for name in names})
        if task == "SST-2":
            assert logits.argmax() == expected[number].argmax()
        np.testing.assert_allclose(logits[0], expected[number], rtol=0, atol=0.05)
