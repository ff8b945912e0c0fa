"""A model and its objective → one ONNX graph: forward pass, loss, observations and every gradient.

torch traces its own backward pass (:mod:`~q8bert.training.programs.joint_graph`) and writes it in standard ONNX, so any
ONNX Runtime runs it, and the gradients are torch's to the order of float sums.

=====================  ============================================================================================
input                  what
=====================  ============================================================================================
the model's own        int64 ``(batch, seq)``: ``input_ids``, ``attention_mask``, …
the objective's        its targets
``loss_scale``         float32 scalar
``amax``               float32 ``(n_sites,)``, ranges of the activations; only where there are sites
``smoothing_<site>``   what a smoothed activation is multiplied by
``zero_points``        float32 ``(n_sites,)``, codes of 0; only where there are sites
``dropout_mask_<n>``   0, or 1 / (1 − p)
``<parameter>``        weights, under their Hugging Face names
=====================  ============================================================================================

Outputs are ``loss``, the objective's outputs, ``observations`` where there are sites, ``<parameter>_grad`` of
``loss · loss_scale``, and for an embedding table ``<table>_rows_grad`` and ``<table>_ids``: gradients of the rows that
were looked up, and which rows those were. All other rows have none. Where ranges are learned, ``amax_grad`` is their
gradient, float32 ``(n_sites,)``, with the factor of :mod:`~q8bert.training.quantization.learned_ranges`.
"""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common as ir_passes
from torch import nn
from torch.nn import functional

from q8bert.spec.errors import ExportError
from q8bert.training.objectives.objective import Objective
from q8bert.training.programs.dropout import dropout_to_inputs, remove_dropout
from q8bert.training.programs.first_token import keep_first_token
from q8bert.training.programs.forward_and_loss import ForwardAndLoss, example_inputs
from q8bert.training.programs.graph_names import name_axes, name_inputs, name_outputs
from q8bert.training.programs.joint_graph import trace_joint_graph
from q8bert.training.programs.onnx_program import program_to_onnx
from q8bert.training.programs.operators import (
    ProgramOperators,
    dropout_to_mask,
    largest,
    linear_to_one_node,
    quantize_activation,
)
from q8bert.training.programs.translations import DROPOUT_MASK, OPSET, UNDECOMPOSED, translations
from q8bert.training.quantization.quantized_model import QuantizedModel, site_inputs
from q8bert.training.quantization.sites import Site

__all__ = ["build_training_graph", "evaluation_graph"]


def build_training_graph(
    model: nn.Module,
    sites: Sequence[Site],
    objective: Objective,
    *,
    input_names: Sequence[str],
    learns_ranges: bool = False,
) -> ir.Model:
    """Trace a model's forward and backward pass in training mode.

    Args:
        model: Float Hugging Face encoder with a head; all its parameters are trained but those that are frozen.
        sites: Activations to quantize and observe; empty for float training.
        objective: Which outputs are read, and the loss.
        input_names: Inputs that the model takes.
        learns_ranges: Whether the ranges of the activations get gradients too.

    Returns:
        The graph, with inputs and outputs as the module's docstring says.

    Raises:
        ExportError: If torch cannot write it, or a parameter would not be trained.
    """
    was_training = model.training
    module = ForwardAndLoss(
        QuantizedModel(model, sites, quantize_activation, outputs=objective.outputs, largest=largest),
        objective,
        ProgramOperators({functional.dropout: dropout_to_mask, functional.linear: linear_to_one_node}),
        observe=bool(sites),
    ).train()
    arguments, axes = example_inputs(objective, input_names, n_sites=len(sites), learns_ranges=learns_ranges)
    try:
        joint = trace_joint_graph(
            module,
            arguments,
            dynamic_axes=axes,
            output_names=["scaled_loss", "loss", *objective.outputs, *(["observations"] if sites else [])],
            undecomposed=UNDECOMPOSED,
            rewrite=keep_first_token,
        )
        graph = program_to_onnx(joint.program, opset=OPSET, translations=translations())
    finally:
        model.train(was_training)
    name_inputs(graph, joint.input_names, more=set(site_inputs(sites)))
    name_outputs(graph, joint.output_names, drop=["scaled_loss"])  # what the gradients are of; nobody reads it
    name_axes(graph)
    dropout_to_inputs(graph, DROPOUT_MASK)
    _remove_idle_expands(graph)
    ir_passes.RemoveUnusedNodesPass()(graph)
    ir_passes.RemoveUnusedOpsetsPass()(graph)
    _refuse_foreign_operators(graph)
    return graph


def evaluation_graph(training: ir.Model, objective: Objective) -> ir.Model:
    """Return the forward pass alone: no loss, no observations, no dropout.

    Args:
        training: What :func:`build_training_graph` gave; left as it is.
        objective: Which outputs are read.

    Returns:
        Model with the objective's outputs alone.
    """
    graph = training.clone()
    remove_dropout(graph)
    graph.graph.outputs[:] = [value for value in graph.graph.outputs if value.name in objective.outputs]
    ir_passes.RemoveUnusedNodesPass()(graph)
    graph.graph.inputs[:] = [value for value in graph.graph.inputs if value.uses() or value.name == "input_ids"]
    return graph


def _remove_idle_expands(graph: ir.Model) -> None:
    """Remove every Expand to the shape that its input has already: torch writes one for each product in attention."""
    for node in list(graph.graph):
        x, y = node.inputs[0] if node.op_type == "Expand" else None, node.outputs[0]
        if x is None or x.shape is None or y.shape is None or y.is_graph_output():  # an output keeps its name
            continue
        if str(x.shape) == str(y.shape):
            y.replace_all_uses_with(x)
            graph.graph.remove(node, safe=True)


def _refuse_foreign_operators(graph: ir.Model) -> None:
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in graph.graph if node.domain not in {"", "ai.onnx"}})
    if foreign:
        raise ExportError(f"the training graph holds operators outside standard ONNX: {', '.join(foreign)}")
