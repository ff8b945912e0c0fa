"""A run's best checkpoint → a bundle, checked against the simulation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
from torch import nn

from q8bert.export.baselines import quantize_after_training_dynamic, quantize_after_training_static
from q8bert.export.bundle.manifest import make_manifest
from q8bert.export.bundle.writer import check_target, write_bundle
from q8bert.export.graph.build import build_graph
from q8bert.export.proofs.fusion import FusionReport, examine_fusion
from q8bert.export.proofs.observed_codes import CodeObserver
from q8bert.export.proofs.parity import Simulation, compare
from q8bert.export.proofs.parity_report import ParityReport
from q8bert.export.proofs.saturation import SaturationReport, prove_saturation_free, what_it_took
from q8bert.export.trained_run import TrainedRun, load_trained_run
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.session import Session
from q8bert.spec.bundle import Bundle
from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError, ExportError
from q8bert.spec.kinds import at_least, one_of
from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights
from q8bert.training.runs.config import TrainConfig

__all__ = ["PARITY_ROWS", "QUANTIZATIONS", "ExportReport", "export"]

QUANTIZATIONS = ("none", "dynamic", "static", "qat")
# dev rows that the exported model is compared on with the simulation: a hundred million codes or more
PARITY_ROWS = 512
# rows on which post-training static quantization observes its ranges
_N_CALIBRATION_ROWS = 512


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        bundle: The bundle's folder.
        data_dir: Folder of the rows that it was compared on, or would have been.
        precision: ``int8`` or ``float32``.
        quantization: ``none``, ``dynamic``, ``static`` or ``qat``.
        model_size_bytes: Bytes of the ONNX model.
        checkpoint_step: Step of the checkpoint it came from.
        float_layers: Linear and Embedding layers left in float on request.
        float_layers_bytes: What the model would be smaller by if they were INT8 too.
        metrics: Dev scores of that checkpoint in training, as fractions.
        fusion: Which products ONNX Runtime runs in integers.
        saturation: Pairs of weights that could overflow, before and after; None unless ``qat``.
        parity: Comparison with the simulation; None where it was left out, and for post-training quantization, which
            nothing simulates.
    """

    bundle: str
    data_dir: str
    precision: str
    quantization: str
    model_size_bytes: int
    checkpoint_step: int
    float_layers: tuple[str, ...]
    float_layers_bytes: int
    metrics: Mapping[str, float]
    fusion: FusionReport
    saturation: SaturationReport | None
    parity: ParityReport | None


@checked
def export(
    run: Path | str,
    output_dir: Path | str,
    *,
    quantization: Annotated[str, one_of(QUANTIZATIONS)] | None = None,
    data_dir: Path | str | None = None,
    check_parity: bool = True,
    parity_rows: Annotated[int, at_least(0)] = PARITY_ROWS,
    report: Callable[[str], None] = lambda _: None,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Bundle, ExportReport]:
    """Export the best checkpoint of a run as a bundle.

    Args:
        run: Folder of the run.
        output_dir: The bundle's folder; an existing bundle there is replaced.
        quantization: ``qat`` of a quantized run; of a float one ``none``, or post-training quantization, ``dynamic`` or
            ``static``. Default: ``qat`` or ``none``.
        data_dir: Folder whose dev split the parity is measured on, and whose training split calibrates ``static``;
            default the run's own.
        check_parity: False leaves the comparison with the simulation out.
        parity_rows: Dev rows that are compared, evenly over the split; 0 for all.
        report: Called with a sentence at every stage.
        show_progress: Called with rows compared and rows in all.

    Returns:
        The bundle, and what was measured.

    Raises:
        CheckpointError: If the run has no whole checkpoint.
        ConfigError: If an argument is of another type, or the run not of the kind that ``quantization`` needs.
        ExportError: If the graph cannot be made, or ``output_dir`` holds something else.
        OutputError: If ``output_dir`` cannot be written.
        ParityError: If the exported model is not the one that was trained.
    """
    check_target(Path(output_dir))
    trained = load_trained_run(Path(run))
    method = _method(trained.config, quantization)
    data_dir = str(data_dir or trained.config.data_dir)
    if trained.stopped_at is not None:
        step = trained.checkpoint.progress.step
        report(
            f"note: training was stopped at step {trained.stopped_at}, before its end; the best checkpoint so far, of "
            f"step {step}, is exported. `q8bert train` with the same options goes on"
        )
    report("building the ONNX graph (some ten seconds)")
    graph = build_graph(
        trained.source.model,
        trained.checkpoint.sites,
        torch.zeros(0) if trained.amax is None else trained.amax,
        trained.weights.quantized,
        input_names=trained.checkpoint.input_names,
        target_scale=trained.checkpoint.target_scale,
    )
    n_proven = prove_saturation_free(graph)
    if method in {"dynamic", "static"}:
        report(f"quantizing after training, {method}")
        graph = _after_training(graph, method, trained, data_dir, report)
    fusion = examine_fusion(graph)
    if method == "qat":
        _refuse_unfused(fusion, trained, n_proven=n_proven)
    saturation = what_it_took(trained.weights) if method == "qat" else None
    parity = None
    if check_parity and method in {"none", "qat"}:
        rows = trained.rows(data_dir, "dev", report)
        max_rows = parity_rows or len(rows)
        report(f"comparing the exported model with the simulation on {min(max_rows, len(rows))} dev rows")
        parity = _parity(graph, trained, rows, max_rows, show_progress)
    bundle = write_bundle(
        Path(output_dir),
        graph=graph,
        tokenizer=trained.tokenizer(),
        manifest=make_manifest(trained, method, fusion=fusion, saturation=saturation),
        parity=parity,
    )
    return bundle, ExportReport(
        bundle=str(bundle.path),
        data_dir=data_dir,
        precision=bundle.manifest.precision,
        quantization=method,
        model_size_bytes=bundle.model_size_bytes,
        checkpoint_step=trained.checkpoint.progress.step,
        float_layers=trained.float_layers,
        float_layers_bytes=_bytes_of_float(trained.weights, trained.float_layers),
        metrics=trained.checkpoint.progress.metrics,
        fusion=fusion,
        saturation=saturation,
        parity=parity,
    )


def _method(config: TrainConfig, asked: str | None) -> str:
    if asked is None:
        return "qat" if config.quantization.quantize else "none"
    if (asked == "qat") != config.quantization.quantize:
        kind = "quantized" if config.quantization.quantize else "float (--no-quantize)"
        fits = "qat" if config.quantization.quantize else "none, dynamic or static"
        raise ConfigError([
            f"quantization {asked} was asked for, but {config.output_dir} is a {kind} run; it can be exported as {fits}"
        ])  # fmt: skip
    return asked


def _refuse_unfused(fusion: FusionReport, trained: TrainedRun, *, n_proven: int) -> None:
    n_float = sum(isinstance(trained.source.model.get_submodule(name), nn.Linear) for name in trained.float_layers)
    n_integer = len(trained.checkpoint.sites)
    if n_proven != n_integer:
        raise ExportError(f"{n_proven} matrices were proven free of saturation where the model has {n_integer}")
    if (fusion.n_integer, fusion.n_float) != (n_integer, n_float):
        raise ExportError(
            f"ONNX Runtime {fusion.onnxruntime} would run {fusion.n_integer} products in integers and {fusion.n_float} "
            f"in float ({', '.join(fusion.float_products) or 'none'}); it should be {n_integer} and {n_float}"
        )


def _after_training(
    graph: onnx.ModelProto, method: str, trained: TrainedRun, data_dir: str, report: Callable[[str], None]
) -> onnx.ModelProto:
    if method == "dynamic":
        return quantize_after_training_dynamic(graph)
    split = trained.rows(data_dir, "train", report)
    order = np.random.default_rng(trained.config.seed).permutation(len(split))[:_N_CALIBRATION_ROWS]
    size = trained.config.optimization.batch_size
    batches = (split.batch(order[at : at + size]).inputs for at in range(0, len(order), size))
    return quantize_after_training_static(
        graph, ({name: tensor.numpy() for name, tensor in inputs.items()} for inputs in batches)
    )


def _parity(
    graph: onnx.ModelProto,
    trained: TrainedRun,
    rows: TokenizedSplit,
    max_rows: int,
    show_progress: Callable[[int, int], None],
) -> ParityReport:
    config, sites, model = trained.config, trained.checkpoint.sites, trained.source.model
    return compare(
        Simulation(model, sites, trained.weights, trained.amax),
        prepare_weights(model, {}, ()),
        Session(graph.SerializeToString(), options=RuntimeOptions.batch(threads=config.execution.threads)),
        CodeObserver(graph, sites, threads=config.execution.threads) if sites else None,
        split=rows,
        task=config.task,
        batch_size=config.evaluation.eval_batch_size,
        max_rows=max_rows,
        show_progress=show_progress,
    )


def _bytes_of_float(weights: TrainableWeights, float_layers: Sequence[str]) -> int:
    # four bytes a weight instead of one
    return sum(3 * weights.masters[f"{name}.weight"].numel() for name in float_layers)
