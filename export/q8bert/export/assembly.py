"""From a model with its grids to a bundle, with every proof on the way; the same for all models that are exported."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import onnx
import torch
from torch import nn

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.graph.build import build_graph
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.proofs.fusion import FusionReport, examine_fusion
from q8bert.export.proofs.observed_codes import CodeObserver
from q8bert.export.proofs.parity import Simulation, compare
from q8bert.export.proofs.parity_report import ParityReport
from q8bert.export.proofs.saturation import SaturationReport, prove_saturation_free, what_it_took
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.session import Session
from q8bert.spec.errors import ExportError
from q8bert.spec.kinds import at_least
from q8bert.training.quantization.weights import prepare_weights

__all__ = ["PARITY_ROWS", "Assembled", "ParityRows", "assemble", "compare_with_simulation"]

# rows that the exported model is compared on with the simulation: a hundred million codes or more
PARITY_ROWS = 512
ParityRows = Annotated[int, at_least(0)]


@dataclass(frozen=True)
class Assembled:
    """A graph, and what was proven of it.

    Attributes:
        graph: The exported graph.
        fusion: Which products ONNX Runtime runs in integers.
        saturation: Pairs of weights that could overflow, before and after; None for a graph whose weights are not on
            the model's own grids.
    """

    graph: onnx.ModelProto
    fusion: FusionReport
    saturation: SaturationReport | None


def assemble(
    model: ModelToExport,
    *,
    report: Callable[[str], None],
    rewrite: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
    symmetric: bool = False,
) -> Assembled:
    """Build a model's graph and prove what can be proven without rows.

    Args:
        model: With grids, or a float one.
        report: Called with a sentence at every stage.
        rewrite: Another's quantization of a float model's graph.
        symmetric: Whether the graph takes the form for runtimes without zero points.

    Returns:
        The graph.

    Raises:
        ExportError: If it cannot be made, a product could saturate, or ONNX Runtime leaves one in float.
    """
    report("building the ONNX graph (some ten seconds)")
    graph = build_graph(
        model.source.model,
        model.sites,
        torch.zeros(0) if model.amax is None else model.amax,
        model.weights.quantized,
        input_names=model.source.input_names,
        target_scale=model.target_scale,
        symmetric=symmetric,
    )
    n_proven = prove_saturation_free(graph)
    if rewrite is not None:
        graph = rewrite(graph)
    fusion = examine_fusion(graph)
    if model.amax is None:
        return Assembled(graph, fusion, None)
    n_quantizers = sum(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    _refuse_unfused(fusion, model, n_quantizers=n_quantizers, n_proven=n_proven)
    return Assembled(graph, fusion, what_it_took(model.weights))


def compare_with_simulation(
    graph: onnx.ModelProto,
    model: ModelToExport,
    rows: EncodedRows,
    *,
    split: str,
    max_rows: int,
    batch_size: int,
    threads: int,
    report: Callable[[str], None],
    show_progress: Callable[[int, int], None],
) -> ParityReport:
    """Compare an exported graph with the simulation of its model.

    Args:
        graph: The exported graph.
        model: What it was made of.
        rows: Labelled or not.
        split: What they are, in a word: ``dev``, ``held-out``.
        max_rows: Rows to compare, evenly over all; 0 for all.
        batch_size: Rows a batch.
        threads: CPU threads of ONNX Runtime.
        report: Called with a sentence.
        show_progress: Called with rows done and rows in all.

    Returns:
        The differences.

    Raises:
        ParityError: If the graph does not compute what the simulation does.
    """
    n_rows = min(max_rows or len(rows), len(rows))
    report(f"comparing the exported model with the simulation on {n_rows} {split} rows")
    return compare(
        Simulation(model.source.model, model.sites, model.weights, model.amax),
        prepare_weights(model.source.model, {}, ()),
        Session(graph.SerializeToString(), options=RuntimeOptions.batch(threads=threads)),
        CodeObserver(graph, model.sites, threads=threads) if model.sites else None,
        split=rows,
        split_name=split,
        task=model.task,
        batch_size=batch_size,
        max_rows=n_rows,
        show_progress=show_progress,
    )


def _refuse_unfused(fusion: FusionReport, model: ModelToExport, *, n_quantizers: int, n_proven: int) -> None:
    """Every quantized activation feeds one product, and what is quantized for one row alone is another activation."""
    n_float = sum(isinstance(model.source.model.get_submodule(name), nn.Linear) for name in model.float_layers)
    if n_proven != n_quantizers or n_quantizers < len(model.sites):
        raise ExportError(
            f"{n_proven} matrices were proven free of saturation where the graph quantizes {n_quantizers} activations "
            f"and the model {len(model.sites)}"
        )
    if (fusion.n_integer, fusion.n_float) != (n_quantizers, n_float):
        raise ExportError(
            f"ONNX Runtime {fusion.onnxruntime} would run {fusion.n_integer} products in integers and {fusion.n_float} "
            f"in float ({', '.join(fusion.float_products) or 'none'}); it should be {n_quantizers} and {n_float}"
        )
