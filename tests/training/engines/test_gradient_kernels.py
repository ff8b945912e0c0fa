"""Kernels written out in elementary operators give the gradients that torch gives."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from q8bert.training.engines.gradient_kernels import expand_gradient_kernels

SHAPE = (3, 5, 16)


def run_expanded(node: ir.Node, inputs: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Run one node after the pass; the pass must have replaced it."""
    for value, array in zip(node.inputs, inputs.values(), strict=True):
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
    for number, output in enumerate(node.outputs):
        output.name, output.type = f"out{number}", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(list(node.inputs), list(node.outputs), nodes=[node], opset_imports={"": 18, "com.microsoft": 1})
    model = ir.Model(graph, ir_version=9)
    expand_gradient_kernels(model)
    assert node.op_type not in {found.op_type for found in model.graph}
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == [f"out{n}" for n in range(len(node.outputs))]
    return [np.asarray(array) for array in session.run(None, inputs)]


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs_of(**tensors: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("width", [16, 1])
def test_layer_normalization(width: int) -> None:
    x = (3 * draw(3, 5, width, seed=1) + 1).requires_grad_()
    gamma, beta = draw(width, seed=2).requires_grad_(), draw(width, seed=3).requires_grad_()
    dy = draw(3, 5, width, seed=4)
    torch.nn.functional.layer_norm(x, (width,), gamma, beta, eps=1e-5).backward(dy)
    mean = x.mean(-1, keepdim=True)
    inv_std = 1 / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)
    arrays = inputs_of(dy=dy, x=x, gamma=gamma, mean=mean, inv_std=inv_std)
    node = ir.node(
        "LayerNormalizationGrad", [ir.Value(name=name) for name in arrays], {"axis": -1}, domain="com.microsoft",
        num_outputs=3,
    )  # fmt: skip
    for ours, expected in zip(run_expanded(node, arrays), (x.grad, gamma.grad, beta.grad), strict=True):
        assert expected is not None
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5, atol=2e-5)


def test_gelu() -> None:
    x = (4 * draw(*SHAPE, seed=1)).requires_grad_()
    dy = draw(*SHAPE, seed=2)
    torch.nn.functional.gelu(x).backward(dy)
    arrays = inputs_of(dy=dy, x=x)
    node = ir.node("GeluGrad", [ir.Value(name=name) for name in arrays], domain="com.microsoft")
    assert x.grad is not None
    np.testing.assert_allclose(run_expanded(node, arrays)[0], x.grad.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("axis", [-1, 1])
def test_softmax(axis: int) -> None:
    x = (3 * draw(*SHAPE, seed=1)).requires_grad_()
    dy = draw(*SHAPE, seed=2)
    y = torch.softmax(x, dim=axis)
    y.backward(dy)
    arrays = inputs_of(dy=dy, y=y)
    node = ir.node("SoftmaxGrad_13", [ir.Value(name=name) for name in arrays], {"axis": axis}, domain="com.microsoft")
    assert x.grad is not None
    np.testing.assert_allclose(run_expanded(node, arrays)[0], x.grad.numpy(), rtol=1e-5, atol=1e-6)
