"""Dropout masks keep and scale as asked, are independent of one another, and follow from the seed alone."""

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from q8bert.spec.errors import ExportError
from q8bert.training.programs.dropout import (
    DropoutInput,
    DropoutMasks,
    dropout_to_inputs,
    read_dropout_inputs,
    remove_dropout,
)

INPUTS = tuple(DropoutInput(f"dropout_mask_{n}", ("batch", 12, "seq", "seq"), 0.1) for n in range(4))


def drawn(seed: int, inputs: tuple[DropoutInput, ...] = INPUTS) -> dict[str, torch.Tensor]:
    masks = DropoutMasks(inputs, torch.device("cpu")).draw(batch=8, seq=32, seed=seed)
    return {name: mask.clone() for name, mask in masks.items()}


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9, 1e-3])
def test_the_share_dropped_and_the_mean_are_as_asked(probability: float) -> None:
    (mask,) = drawn(1, (DropoutInput("m", ("batch", 4, "seq", 300), probability),)).values()
    n = mask.numel()
    # five standard deviations of a binomial share, and half a level of the 16-bit threshold
    tolerance = 5 * np.sqrt(probability * (1 - probability) / n) + 2**-17
    assert float((mask == 0).double().mean()) == pytest.approx(probability, abs=tolerance)
    assert float(mask.double().mean()) == pytest.approx(1.0, abs=tolerance / (1 - probability))
    kept = mask[mask != 0].unique()
    assert len(kept) == 1
    assert float(kept) == pytest.approx(1 / (1 - probability), rel=2**-17 / (1 - probability))


def test_masks_of_nodes_steps_and_neighbours_are_uncorrelated() -> None:
    masks = [mask.flatten().double() for seed in (7, 8, 2**31 - 2) for mask in drawn(seed).values()]
    n = len(masks[0])
    for first, second in itertools.combinations(masks, 2):
        assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 5 / np.sqrt(n)
    for shift in (1, 4, 32):
        pair = torch.stack([masks[0][:-shift], masks[0][shift:]])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / np.sqrt(n)


def test_the_seed_decides_everything() -> None:
    first, again, other = drawn(3), drawn(3), drawn(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def graph_with_dropout(*, shape: ir.Shape | None) -> ir.Model:
    """``y = 2 · (x · mask)``, the mask a node that stands for one, as a traced program has it."""
    x = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    stand_in = ir.node("Mask", [x], {"probability": 0.25}, domain="q8bert")
    stand_in.outputs[0].shape, stand_in.outputs[0].type = shape, ir.TensorType(ir.DataType.FLOAT)
    dropout = ir.node("Mul", [x, stand_in.outputs[0]])
    double = ir.node("Add", [dropout.outputs[0], dropout.outputs[0]])
    double.outputs[0].name, double.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [double.outputs[0]], nodes=[stand_in, dropout, double], opset_imports={"": 20, "q8bert": 1})
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, **inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], inputs)[0])


def test_a_mask_becomes_an_input_and_the_dropout_can_be_removed_again() -> None:
    model = graph_with_dropout(shape=ir.Shape(["batch", "seq"]))
    dropout_to_inputs(model, "Mask")
    (found,) = read_dropout_inputs(model.metadata_props)
    assert found == DropoutInput("dropout_mask_0", ("batch", "seq"), 0.25)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    mask = np.array([[0, 1, 2], [3, 4, 5]], dtype=np.float32)
    np.testing.assert_array_equal(run(model, x=x, dropout_mask_0=mask), 2 * x * mask)
    remove_dropout(model)
    model.graph.inputs[:] = model.graph.inputs[:1]
    np.testing.assert_array_equal(run(model, x=x), 2 * x)


def test_an_unknown_shape_is_an_error() -> None:
    with pytest.raises(ExportError, match="no shape for the input of a dropout"):
        dropout_to_inputs(graph_with_dropout(shape=None), "Mask")
