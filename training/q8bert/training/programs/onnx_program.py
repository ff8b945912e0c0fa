"""A torch module → an ONNX model, with the exporter's noise left behind.

The one place that calls ``torch.onnx.export``, for training graphs and for exported models alike. Names of weights
are the module's own; stack traces, shapes and node names that the exporter writes into the file (0.5 MB
for a 23 MB model) are stripped.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common as ir_passes
from torch import Tensor, nn
from torch.export import ExportedProgram

from q8bert.spec.errors import ExportError

__all__ = ["MAX_IR_VERSION", "program_to_onnx", "to_onnx"]

MAX_IR_VERSION = 10  # the newest that ONNX Runtime 1.19.2 reads


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    dynamic_axes: Mapping[str, Mapping[int, str]],
    output_names: Sequence[str],
    opset: int,
) -> ir.Model:
    """Export a module.

    Args:
        module: Called with ``inputs`` as keyword arguments; in training or evaluation mode as it is.
        inputs: Example values; sizes on dynamic axes must be at least 2.
        dynamic_axes: Input name → axis → symbolic name.
        output_names: One name an output.
        opset: Version of the ``ai.onnx`` operators.

    Returns:
        The model; parameters and buffers are initializers under their names in ``module``.

    Raises:
        ExportError: If torch cannot express the module in ONNX.
    """
    symbols = {name: torch.export.Dim(name, min=1) for axes in dynamic_axes.values() for name in axes.values()}
    shapes = {name: {axis: symbols[symbol] for axis, symbol in dynamic_axes.get(name, {}).items()} for name in inputs}
    return _translated(
        module,
        opset,
        kwargs=dict(inputs),
        input_names=list(inputs),
        output_names=list(output_names),
        dynamic_shapes=shapes,
    )


def program_to_onnx(
    program: ExportedProgram, *, opset: int, translations: Mapping[Callable[..., Any], Callable[..., Any]]
) -> ir.Model:
    """Translate a graph that torch has traced already.

    Args:
        program: The graph, in operators that are not taken apart any further.
        opset: Version of the ``ai.onnx`` operators.
        translations: Operators of torch → functions that write their ONNX nodes, before those of torch.

    Returns:
        The model; inputs and outputs stand in the program's order.

    Raises:
        ExportError: If an operator has no ONNX form.
    """
    return _translated(program, opset, custom_translation_table=dict(translations))


def _translated(module: nn.Module | ExportedProgram, opset: int, **options: Any) -> ir.Model:
    what = "the traced graph" if isinstance(module, ExportedProgram) else type(module).__name__
    with _quiet_exporter():
        try:
            # the optimizer merges initializers of equal value: every zero bias would become one tensor
            program = torch.onnx.export(
                module, opset_version=opset, dynamo=True, optimize=False, verbose=False, **options
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"torch could not export {what} to ONNX: {error}") from error
    if program is None:
        raise ExportError(f"torch exported nothing for {what}")
    model = program.model
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    ir_passes.ClearMetadataAndDocStringPass()(model)
    ir_passes.RemoveUnusedNodesPass()(model)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    # the exporter warns of its own internals and logs missing torchvision at every call
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
