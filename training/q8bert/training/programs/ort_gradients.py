"""The training graph with gradients by ONNX Runtime Training 1.19.2, instead of torch's.

Its front end, ``ORTModule``, cannot be imported with torch 2.9 or later. What lies beneath it works: torch exports the
forward pass and the loss, ONNX Runtime applies its training transforms, and ``GradientGraphBuilder`` appends the
backward pass. Inputs and outputs are those of :mod:`~q8bert.training.programs.training_graph`. The graph holds training
operators of ``com.microsoft``, so only that release runs it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from q8bert.machine.onnx_runtime import ort
from q8bert.spec.errors import ExportError
from q8bert.spec.quant import ACTIVATION_QMAX, ACTIVATION_QMIN
from q8bert.training.objectives.objective import Objective
from q8bert.training.programs.dropout import dropout_to_inputs
from q8bert.training.programs.forward_and_loss import ForwardAndLoss, argument_names, example_inputs
from q8bert.training.programs.graph_names import name_axes, name_inputs, name_outputs
from q8bert.training.programs.onnx_program import program_to_onnx
from q8bert.training.programs.operators import ProgramOperators, dropout_to_mask
from q8bert.training.programs.translations import DROPOUT_MASK, dropout_translation
from q8bert.training.quantization.quantized_model import QuantizedModel, site_inputs
from q8bert.training.quantization.sites import Site

__all__ = ["build_with_ort_gradients"]

_SCALED_LOSS = "scaled_loss"  # what the gradients are taken of
_OPSET = 18  # the newest that the gradient builder is safe with
# outputs that are optional in ONNX and that the gradient of the operator needs
_OUTPUTS_FOR_GRADIENT = {"LayerNormalization": 3}


def build_with_ort_gradients(
    model: nn.Module, sites: Sequence[Site], objective: Objective, *, input_names: Sequence[str]
) -> ir.Model:
    """Export forward pass and loss, and let ONNX Runtime append every gradient.

    Args:
        model: Float Hugging Face encoder with a head.
        sites: Activations to quantize and observe; empty for float training.
        objective: Which outputs are read, and the loss.
        input_names: Inputs that the model takes.

    Returns:
        The graph; see :func:`~q8bert.training.programs.training_graph.build_training_graph`.

    Raises:
        ExportError: If torch cannot write the forward pass, or ONNX Runtime cannot differentiate it.
    """
    was_training = model.training
    module = ForwardAndLoss(
        QuantizedModel(model, sites, _fake_quant, outputs=objective.outputs),
        objective,
        ProgramOperators({functional.dropout: dropout_to_mask, functional.gelu: _gelu}),
        observe=bool(sites),
    ).train()
    arguments, axes = example_inputs(objective, input_names, n_sites=len(sites))
    try:
        graph = program_to_onnx(_traced(module, arguments, axes), opset=_OPSET, translations=dropout_translation())
    finally:
        model.train(was_training)
    parameters = dict(model.named_parameters())
    name_inputs(graph, argument_names(arguments), more={*parameters, *site_inputs(sites)})
    names = [_SCALED_LOSS, "loss", *objective.outputs, *(["observations"] if sites else [])]
    name_outputs(graph, names)
    name_axes(graph)
    _read_sizes_off_first_inputs(graph)
    dropout_to_inputs(graph, DROPOUT_MASK)
    return _with_gradients(graph, [name for name, value in parameters.items() if value.requires_grad])


def _traced(module: nn.Module, arguments: Mapping[str, Any], axes: Mapping[str, Any]) -> ExportedProgram:
    dynamic = tree_map_only(str, lambda _: torch.export.Dim.DYNAMIC, dict(axes))
    try:
        return torch.export.export(module, (), kwargs=dict(arguments), dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        raise ExportError(f"torch {torch.__version__} could not trace {type(module).__name__}: {error}") from error


def _read_sizes_off_first_inputs(graph: ir.Model) -> None:
    """Read each size of a batch off the first input that has it, so that the forward pass needs no target, in place."""
    for node in graph.graph:
        given = node.inputs[0] if node.op_type == "Shape" else None
        if given is None or not given.is_graph_input() or given.shape is None or "start" not in node.attributes:
            continue
        start, end = node.attributes["start"].as_int(), node.attributes["end"].as_int()
        places = [
            (value, axis)
            for value in graph.graph.inputs
            for axis, size in enumerate(value.shape or ())
            if end == start + 1 and str(size) == str(given.shape[start])
        ]
        if places:
            first, axis = places[0]
            node.replace_input_with(0, first)
            node.attributes["start"], node.attributes["end"] = (
                ir.AttrInt64("start", axis),
                ir.AttrInt64("end", axis + 1),
            )


def _with_gradients(forward: ir.Model, trained: Sequence[str]) -> ir.Model:
    tables = _name_lookups(forward)
    proto = ir.serde.serialize_model(forward)
    for node in proto.graph.node:
        for index in range(len(node.output), _OUTPUTS_FOR_GRADIENT.get(node.op_type, 0)):
            node.output.append(f"{node.output[0]}_extra_{index}")
    taken = {name for node in proto.graph.node for name in node.input}
    unused = sorted(set(trained) - taken)
    if unused:
        raise ExportError(f"the loss does not depend on {', '.join(unused)}: these would silently never be trained")
    wanted = (set(trained) - set(tables)) | {f"{name}_rows" for name in tables}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # of the training build alone, as is the module
    from onnxruntime.capi import _pybind_state as ort_training  # noqa: PLC0415

    try:
        transformed = ort_training.get_optimized_model(proto.SerializeToString(), wanted, options)
        builder = ort_training.GradientGraphBuilder(transformed, {_SCALED_LOSS}, wanted, _SCALED_LOSS, options)
        builder.build()
    except RuntimeError as error:
        raise ExportError(f"ONNX Runtime {ort.__version__} could not build the gradient graph: {error}") from error
    built = ir.serde.deserialize_model(onnx.load_model_from_string(builder.get_model()))
    built.graph.outputs[:] = [value for value in built.graph.outputs if value.name != _SCALED_LOSS]
    return built


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


def _fake_quant(x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:  # noqa: ARG001 - every quantizer is told the site
    """Stand for ``com.microsoft::FakeQuant``, which has a gradient: zero where it clamped."""
    y, _inside = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::FakeQuant",
        (x, scale, zero_point),
        {"quant_min": ACTIVATION_QMIN, "quant_max": ACTIVATION_QMAX},
        dtypes=(x.dtype, torch.bool),
        shapes=(x.shape, x.shape),
        version=1,
    )
    return y


def _gelu(input: Tensor, approximate: str = "none") -> Tensor:  # noqa: A002 - torch's name
    """Stand for ``com.microsoft::Gelu``, whose gradient is one kernel."""
    if approximate != "none":
        return functional.gelu(input, approximate=approximate)
    return torch.onnx.ops.symbolic("com.microsoft::Gelu", (input,), dtype=input.dtype, shape=input.shape, version=1)
