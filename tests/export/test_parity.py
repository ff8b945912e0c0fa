"""Simulation against exported model: ties are told from defects."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from q8bert.export.graph import build_graph
from q8bert.export.observed_codes import CodeObserver
from q8bert.export.parity import _TieResolver
from q8bert.runtime.session import Session
from q8bert.spec.errors import ExportError, ParityError
from q8bert.training.sites import Site


def changed(graph: onnx.ModelProto, ending: str, change: Any) -> onnx.ModelProto:
    """Copy a graph with the first constant of a name changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name.endswith(ending))
    array = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


def test_a_tie_is_resolved_the_other_models_way_and_a_defect_shows_its_distance() -> None:
    resolver = _TieResolver()
    scale = torch.tensor(0.5)
    # in steps of the scale: 2.4999 (a tie within float error), 3.0, −130 (clamped)
    x = torch.tensor([1.24995, 1.5, -65.0])
    resolver.codes = [torch.tensor([3.0, 3.0, -128.0]), torch.tensor([2.0, 4.0, -128.0])]
    torch.testing.assert_close(resolver(x, scale, 0), torch.tensor([1.5, 1.5, -64.0]))
    assert (resolver.n_codes, resolver.n_ties) == (3, 1)
    assert resolver.max_tie_distance == pytest.approx(1e-4, rel=0.01)
    resolver(x, scale, 1)
    assert (resolver.n_codes, resolver.n_ties) == (6, 2)
    assert resolver.max_tie_distance == pytest.approx(0.5)  # 3.0 became 4: half a code past the border


def test_the_observed_model_is_the_exported_one(bert: Any) -> None:
    inputs = {name: tensor.numpy() for name, tensor in bert.batch.inputs.items()}
    logits, codes = CodeObserver(bert.graph, bert.sites).run(inputs)
    np.testing.assert_array_equal(logits, Session(bert.graph.SerializeToString()).run(inputs))
    shapes = [(4, 11, 32), (4, 11, 32), (4, 11, 32), (4, 11, 64)] * 2 + [(4, 32), (4, 32)]
    assert [array.shape for array in codes] == shapes
    assert all(np.array_equal(array, np.rint(array)) and np.abs(array).max() <= 128 for array in codes)
    with pytest.raises(ExportError, match="does not quantize nowhere any more"):
        CodeObserver(bert.graph, [*bert.sites, Site("nowhere", ("a",))])


def test_without_a_defect_only_ties_differ(bert: Any) -> None:
    report = bert.parity()
    n_codes = 4 * 11 * (32 * 3 + 64) * 2 + 2 * 4 * 32
    # batches of two are padded to their own longest row
    assert 0 < report.n_codes <= n_codes
    assert report.resolved.n_rows_differing == 0
    assert report.resolved.max_abs_diff < 1e-4
    assert report.max_tie_distance < 1e-3
    assert report.quantization_effect > 1e-3


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        ("bert.encoder.layer.1.output.dense.input.quantize_scale", lambda scale: scale * np.float32(1.02)),
        ("bert.encoder.layer.1.output.dense.weight_codes", lambda codes: codes[::-1]),
        ("bert.encoder.layer.0.output.dense.weight_scale", lambda scale: scale * np.float32(1.02)),
        ("bert.encoder.layer.0.intermediate.dense.bias", lambda bias: bias + np.float32(0.05)),
        ("classifier.weight_codes", lambda codes: codes[:, ::-1]),
        ("classifier.weight_scale", lambda scale: scale * np.float32(1.01)),
        ("classifier.bias", lambda bias: bias + np.float32(0.01)),
        ("classifier.input.dequantize_scale", lambda scale: scale * np.float32(1.02)),
    ],
)
def test_a_defect_of_the_graph_is_no_tie(bert: Any, ending: str, change: Any) -> None:
    with pytest.raises(ParityError, match=r"is not the one that was trained, on 4 rows: ") as caught:
        bert.parity(graph=changed(bert.graph, ending, change))
    assert "allowed" in str(caught.value)


def test_a_float_graph_has_no_ties_to_hide_behind(bert: Any) -> None:
    report = bert.parity(is_float=True)
    assert (report.n_codes, report.quantization_effect) == (0, 0.0)
    assert report.free == report.resolved
    assert report.free.max_abs_diff < 1e-4
    wrong = changed(bert.float_graph, "classifier.bias", lambda bias: bias + np.float32(0.01))
    with pytest.raises(ParityError, match=r"largest difference of a logit: 0\.01, allowed 0\.001"):
        bert.parity(graph=wrong, is_float=True)


def test_another_models_ranges_are_no_tie(bert: Any) -> None:
    graph = build_graph(bert.model, bert.sites, bert.amax * 1.1, bert.quantized, input_names=list(bert.batch.inputs))
    with pytest.raises(ParityError, match="codes from the border of a tie"):
        bert.parity(graph=graph)
