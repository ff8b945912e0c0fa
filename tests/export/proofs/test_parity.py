"""Simulation against exported model: ties are told from defects."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from q8bert.export.proofs import parity
from q8bert.export.proofs.observed_codes import CodeObserver
from q8bert.export.proofs.parity import MAX_TIE_DISTANCE
from q8bert.runtime.engines.session import Session
from q8bert.spec.errors import ExportError, ParityError
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.objectives.objective import Classification
from q8bert.training.objectives.target_scale import TargetScale
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import prepare_weights


def changed(graph: onnx.ModelProto, ending: str, change: Any) -> onnx.ModelProto:
    """Copy a graph with the first constant of a name changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name.endswith(ending))
    array = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


class OtherSideOfATie:
    """Stands for an exported model that rounds one code, the nearest to a tie, to the other side."""

    def __init__(self, bert: Any) -> None:
        self.weights = prepare_weights(bert.model, bert.quantized, bert.sites)
        self.bert, self.site, self.value, self.codes = bert, -1, 0.0, {}
        self.run({name: tensor.numpy() for name, tensor in bert.batch.inputs.items()})
        self.distance = 1.0
        is_padding = bert.batch.inputs["attention_mask"] == 0
        for site, steps in self.steps.items():
            distances = (
                (steps - steps.floor() - 0.5).abs().where(steps.abs() < 64, 1.0)
            )  # not clamped, with any zero point
            if distances.ndim == 3:
                distances[is_padding] = 1.0
                if bert.sites[site].first_token_only:
                    distances[:, 1:] = 1.0  # nothing reads it
            if distances.min() < self.distance:
                self.distance = float(distances.min())
                self.row = int(distances.flatten(1).min(dim=1).values.argmin())
                self.site, self.value = site, float(steps.flatten()[distances.argmin()])

    def quantize(self, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, site: int, /) -> torch.Tensor:
        self.steps[site] = steps = x / scale
        codes = torch.round(steps).clamp(-128 - zero_point, 127 - zero_point)
        if site == self.site:
            # found by its value: batches put it elsewhere
            codes = torch.where((steps - self.value).abs() < 1e-5, 2 * np.floor(self.value) + 1 - codes, codes)
        self.codes[site] = codes + zero_point
        return codes * scale

    def run(self, inputs: Any) -> Any:
        self.steps: dict[int, torch.Tensor] = {}
        engine = TorchEngine(self.bert.model, self.bert.sites, self.weights, Classification(), quantize=self.quantize)
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        return engine.outputs(tensors, self.bert.amax)["logits"].numpy()


def test_a_row_that_differs_names_its_first_tie(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = OtherSideOfATie(bert)
    observer = SimpleNamespace(
        run=lambda inputs: (exported.run(inputs), [exported.codes[i].numpy() for i in range(10)])
    )
    assert exported.distance < MAX_TIE_DISTANCE
    # one code moves no label of four rows: call every logit that moved another prediction
    monkeypatch.setattr(parity, "_differs", lambda a, b, *_: np.abs(a - b).max(axis=1) > 1e-5)
    monkeypatch.setattr(parity, "MAX_SHARE_OF_TIES", 1e-2)
    report = bert.parity(session=exported, observer=observer)
    assert (report.free.n_rows_differing, report.resolved.n_rows_differing, report.n_ties) == (1, 0, 1)
    (found,) = report.differing_rows
    assert (found.row, found.n_ties, found.first_tie) == (exported.row, 1, bert.sites[exported.site].name)
    assert found.first_tie_distance == pytest.approx(exported.distance, abs=1e-5)
    np.testing.assert_allclose(found.resolved, found.exported, atol=1e-6)
    assert np.abs(np.subtract(found.simulated, found.exported)).max() > 1e-5


def test_some_rows_stand_for_the_whole_split(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # files are sorted by label now and then: the first rows would not do
    monkeypatch.setattr(parity, "_differs", lambda a, b, task, scale: np.ones(len(a), dtype=bool))
    monkeypatch.setattr(parity, "_refuse_defects", lambda report, scale: None)
    report = bert.parity(max_rows=2)
    assert (report.n_rows, report.n_rows_in_split) == (2, 4)
    assert [found.row for found in report.differing_rows] == [0, 2]
    logits = Session(bert.graph.SerializeToString()).run(
        {name: tensor[:3].numpy() for name, tensor in bert.batch.inputs.items()}
    )
    np.testing.assert_allclose([found.exported for found in report.differing_rows], logits[[0, 2]], atol=1e-2)


def test_the_observed_model_is_the_exported_one(bert: Any) -> None:
    inputs = {name: tensor.numpy() for name, tensor in bert.batch.inputs.items()}
    logits, codes = CodeObserver(bert.graph, bert.sites).run(inputs)
    np.testing.assert_array_equal(logits, Session(bert.graph.SerializeToString()).run(inputs))
    shapes = [(4, 11, 32), (4, 11, 32), (4, 11, 32), (4, 11, 64)]
    # of the last layer, keys and values are of all rows, all that follows of the first token's
    shapes += [(4, 11, 32), (4, 1, 32), (4, 1, 32), (4, 1, 64), (4, 32), (4, 32)]
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
    with pytest.raises(
        ParityError, match=r"does not compute what its simulation does, on 4 rows and onnxruntime.*: "
    ) as caught:
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


def test_differences_are_allowed_in_proportion_to_the_scores_spread(bert: Any) -> None:
    scale, session = TargetScale(-2000.0, 1000.0), Session(bert.float_graph.SerializeToString())

    def report(term: float) -> Any:
        exported = SimpleNamespace(run=lambda inputs: session.run(inputs) * np.float32(1000) - np.float32(2000 - term))
        return bert.parity(session=exported, is_float=True, target_scale=scale)

    plain = bert.parity(is_float=True).free.max_abs_diff
    assert report(0).free.max_abs_diff == pytest.approx(1000 * plain, abs=1e-3)
    assert report(0.5).free.max_abs_diff == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ParityError, match=r"largest difference of a logit: 10, allowed 1$"):
        report(10)


def test_another_models_ranges_are_no_tie(bert: Any) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(bert.graph)
    for tensor in graph.graph.initializer:
        if tensor.name.endswith(("quantize_scale", "dequantize_scale")):  # of activations
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    with pytest.raises(ParityError, match="codes from the border of a tie"):
        bert.parity(graph=graph)
