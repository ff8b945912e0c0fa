"""A model and its loss → an ONNX graph that also computes every gradient.

``ORTModule``, ONNX Runtime's own front end, cannot be imported with torch 2.9 or later. What lies beneath it
works: export the forward pass and loss (:func:`export_forward`), let ORT apply its training
transforms, and let ``GradientGraphBuilder`` append the backward pass (:func:`append_gradients`).
The result is an ordinary model that an ``InferenceSession`` of the training build runs.

Weights enter as graph inputs under their Hugging Face names, ranges as the input ``amax``;
gradients leave as ``<name>_grad``, observations as ``observations``.
"""

import math
from collections.abc import Sequence, Set
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx_ir.passes import common as ir_passes
from onnxruntime.capi import _pybind_state
from onnxscript.rewriter import pattern, rewrite
from torch import Tensor, nn

from q8bert.spec.errors import ExportError
from q8bert.spec.quant import ACTIVATION_QMAX, ACTIVATION_QMIN
from q8bert.training.engines.dropout import dropout_to_inputs, remove_dropout
from q8bert.training.engines.gradient_kernels import expand_gradient_kernels
from q8bert.training.engines.onnx_program import to_onnx
from q8bert.training.quantization.quantized_model import QuantizedModel, classification_loss, smoothing_name
from q8bert.training.quantization.sites import Site

__all__ = ["append_gradients", "evaluation_graph", "export_forward"]

_SCALED_LOSS = "scaled_loss"  # what the gradients are taken of
_OPSET = 18  # the newest that ORT 1.19.2's gradient builder is safe with
_WRAPPER_PREFIX, _MODEL_PREFIX = "quantized.", "model."

# outputs that are optional in ONNX and that the gradient of the operator needs
_OUTPUTS_FOR_GRADIENT = {"LayerNormalization": 3}


def quantize_activation(x: Tensor, scale: Tensor, site: int, /) -> Tensor:  # noqa: ARG001 - every quantizer is told the site
    """Stand for ``com.microsoft::FakeQuant`` in the exported training graph.

    Args:
        x: Float32 activation.
        scale: Float32 scalar, real units per integer step.
        site: Index of the site, not needed.

    Returns:
        ``clip(round_half_even(x / scale), -128, 127) * scale``; its gradient is zero where it clamped.
    """
    dtype, x = x.dtype, x.float()  # the operator knows float32 only
    y, _inside = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::FakeQuant",
        (x, scale, torch.zeros(())),
        {"quant_min": ACTIVATION_QMIN, "quant_max": ACTIVATION_QMAX},
        dtypes=(x.dtype, torch.bool),
        shapes=(x.shape, x.shape),
        version=1,
    )
    return y.to(dtype)


def export_forward(
    model: nn.Module, sites: Sequence[Site], *, quantize: bool, input_names: Sequence[str], regression: bool
) -> ir.Model:
    """Export forward pass and loss in training mode.

    Args:
        model: Float Hugging Face classifier.
        sites: Activations to observe, and to quantize; empty for float training.
        quantize: False leaves activations float, and only observes them.
        input_names: Inputs that the model takes.
        regression: Whether labels are scores (float32) or ids (int64).

    Returns:
        Model with inputs ``input_names``, ``labels``, ``loss_scale``, ``amax`` (if quantized), dropout masks, and one
        for each parameter and each smoothed site, and outputs ``loss``, ``logits``, ``scaled_loss`` and
        ``observations`` (if there are sites).
    """
    # a tensor of its own for each input: torch.export takes one tensor given twice for one input
    inputs = {name: torch.ones(2, 4, dtype=torch.int64) for name in input_names}
    inputs["labels"] = torch.zeros(2) if regression else torch.zeros(2, dtype=torch.int64)
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "seq"} for name in input_names}
    axes["labels"] = {0: "batch"}
    outputs = ["loss", "logits", _SCALED_LOSS]
    inputs["loss_scale"] = torch.ones(())
    if sites and quantize:
        inputs["amax"] = torch.ones(len(sites))
    if sites:
        outputs.append("observations")
    was_training = model.training
    wrapper = _ForwardAndLoss(QuantizedModel(model, sites, quantize_activation), observe=bool(sites)).train()
    try:
        graph = to_onnx(wrapper, inputs, dynamic_axes=axes, output_names=outputs, opset=_OPSET)
    finally:
        model.train(was_training)
    _parameters_to_inputs(graph, {*dict(model.named_parameters()), *map(smoothing_name, range(len(sites)))})
    dropout_to_inputs(graph)
    return rewrite(graph, [_FuseGelu.rule()])  # type: ignore[no-untyped-call]


def append_gradients(forward: ir.Model, *, expand_kernels: bool = True) -> onnx.ModelProto:
    """Append the backward pass.

    Args:
        forward: What :func:`export_forward` gave.
        expand_kernels: Whether to replace kernels that are slow on the CPU, see
            :mod:`~q8bert.training.engines.gradient_kernels`; a GPU has fast ones.

    Returns:
        The same graph with one more output, ``<name>_grad``, for each parameter that the loss depends on. For an
        embedding table there are two instead, ``<name>_rows_grad`` and ``<name>_ids``: gradients of the rows that were
        looked up, ``ids`` shape + ``(width,)``, and which rows those were. All other rows have none.

    Raises:
        ExportError: If ONNX Runtime cannot differentiate the graph.
    """
    graph = forward.clone()
    tables = _name_lookups(graph)
    proto = ir.serde.serialize_model(graph)
    for node in proto.graph.node:
        for index in range(len(node.output), _OUTPUTS_FOR_GRADIENT.get(node.op_type, 0)):
            node.output.append(f"{node.output[0]}_extra_{index}")
    taken = {name for node in proto.graph.node for name in node.input}
    parameters = {value.name for value in proto.graph.input if value.name in taken and "." in value.name}
    trainable = (parameters - set(tables)) | {f"{name}_rows" for name in tables}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        transformed = _pybind_state.get_optimized_model(proto.SerializeToString(), trainable, options)
        builder = _pybind_state.GradientGraphBuilder(transformed, {_SCALED_LOSS}, trainable, _SCALED_LOSS, options)
        builder.build()
        built = ir.serde.deserialize_model(onnx.load_model_from_string(builder.get_model()))
    except RuntimeError as error:
        raise ExportError(f"ONNX Runtime could not build the gradient graph: {error}") from error
    if expand_kernels:
        expand_gradient_kernels(built)
    return ir.serde.serialize_model(built)


def evaluation_graph(forward: ir.Model) -> onnx.ModelProto:
    """Return the forward pass alone: no loss, no observations, no dropout.

    Args:
        forward: What :func:`export_forward` gave; left as it is.

    Returns:
        Model with the one output ``logits``.
    """
    graph = forward.clone()
    remove_dropout(graph)
    logits = next(output for output in graph.graph.outputs if output.name == "logits")
    graph.graph.outputs[:] = [logits]
    ir_passes.RemoveUnusedNodesPass()(graph)
    graph.graph.inputs[:] = [value for value in graph.graph.inputs if value.uses() or value.name == "input_ids"]
    return ir.serde.serialize_model(graph)


def _name_lookups(graph: ir.Model) -> tuple[str, ...]:
    """Name the rows that are looked up in each table ``<table>_rows`` and put out their numbers as ``<table>_ids``."""
    tables = []
    for node in list(graph.graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or table.name is None or not table.is_graph_input() or len(table.uses()) > 1:
            continue
        tables.append(table.name)
        node.outputs[0].name = f"{table.name}_rows"
        ids = ir.node("Identity", [node.inputs[1]])
        ids.outputs[0].name = f"{table.name}_ids"
        ids.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        ids.outputs[0].shape = None if node.inputs[1] is None else node.inputs[1].shape
        graph.graph.append(ids)
        graph.graph.outputs.append(ids.outputs[0])
    return tuple(tables)


class _ForwardAndLoss(nn.Module):
    """Forward pass and loss as one module with keyword arguments, for the exporter."""

    def __init__(self, quantized: QuantizedModel, *, observe: bool) -> None:
        super().__init__()
        self.quantized = quantized
        self._observe = observe

    def forward(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        loss_scale: Tensor,
        token_type_ids: Tensor | None = None,
        amax: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        logits, observations = self.quantized(input_ids, attention_mask, token_type_ids, amax, observe=self._observe)
        loss = classification_loss(logits.float(), labels)
        results = (loss, logits.float(), loss * loss_scale)
        return (*results, observations.float()) if self._observe else results


class _FuseGelu(pattern.RewriteRuleClassBase):
    """The exporter's Erf chain → one ``com.microsoft::Gelu``, whose gradient ORT computes in one kernel."""

    def pattern(self, op: Any, x: Any) -> Any:
        root = pattern.Constant(math.sqrt(2), rel_tol=1e-3)  # it may come in half precision
        return op.Mul(x, op.Mul(0.5, op.Add(op.Erf(op.Div(x, root)), 1.0)))

    def rewrite(self, op: Any, x: Any) -> Any:
        return op.Gelu(x, _domain="com.microsoft")


def _parameters_to_inputs(graph: ir.Model, names: Set[str]) -> None:
    for name in list(graph.graph.initializers):
        own_name = name.removeprefix(_WRAPPER_PREFIX).removeprefix(_MODEL_PREFIX)
        if own_name in names:
            value = graph.graph.initializers.pop(name)
            value.const_value = None
            value.name = own_name
            graph.graph.inputs.append(value)
