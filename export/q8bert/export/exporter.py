"""A run's best checkpoint → a bundle, checked against the simulation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx

from q8bert.data.row_source import RowSource
from q8bert.export.assembly import PARITY_ROWS, ParityRows, assemble, compare_with_simulation
from q8bert.export.baselines import quantize_after_training_dynamic, quantize_after_training_static
from q8bert.export.bundle.library_files import model_configuration
from q8bert.export.bundle.manifest import make_manifest
from q8bert.export.bundle.writer import check_target, write_bundle
from q8bert.export.proofs.fusion import FusionReport
from q8bert.export.proofs.parity_report import ParityReport
from q8bert.export.proofs.saturation import SaturationReport
from q8bert.export.target_graphs import make_targets, refuse_targets
from q8bert.export.trained_run import TrainedRun, load_trained_run
from q8bert.spec.bundle.bundle import Bundle
from q8bert.spec.bundle.targets import TARGETS, TargetGraph
from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import at_least, one_of
from q8bert.training.engines.threads import torch_threads
from q8bert.training.runs.config import TrainConfig

__all__ = ["QUANTIZATIONS", "ExportReport", "export"]

Target = Annotated[str, one_of(TARGETS)]
QUANTIZATIONS = ("none", "dynamic", "static", "qat")
# rows on which post-training static quantization observes its ranges
_N_CALIBRATION_ROWS = 512


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        bundle: The bundle's folder.
        data_dir: Folder of the dev rows that it was compared on, or would have been; None where they are a file.
        dev_file: File of these rows; None where they are in a folder.
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
        targets: Other forms of the model, by what they are for.
    """

    bundle: str
    data_dir: str | None
    dev_file: str | None
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
    targets: Mapping[str, TargetGraph]


@checked
def export(
    run: Path | str,
    output_dir: Path | str,
    *,
    quantization: Annotated[str, one_of(QUANTIZATIONS)] | None = None,
    data_dir: Path | str | None = None,
    check_parity: bool = True,
    parity_rows: ParityRows = PARITY_ROWS,
    symmetric: bool = False,
    targets: tuple[Target, ...] = (),
    threads: Annotated[int, at_least(0)] = 0,
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
            default the run's own, or its files.
        check_parity: False leaves the comparison with the simulation out.
        parity_rows: Dev rows that are compared, evenly over the split; 0 for all.
        symmetric: For runtimes that take zero point 0 alone, and scales by axis of constants alone, as TensorRT does:
            zero points become additions, scales of tables products. The model is the same, and somewhat slower.
        targets: Other forms of the model that the bundle has too: ``cuda``, products of integers for ONNX Runtime's
            CUDA provider, and ``float16``, the same weights in half precision, activations not rounded.
        threads: CPU threads; 0 for those of the run, or those of the cores that this process may use.
        report: Called with a sentence at every stage.
        show_progress: Called with rows compared and rows in all.

    Returns:
        The bundle, and what was measured.

    Raises:
        CheckpointError: If the run has no whole checkpoint.
        ConfigError: If an argument is of another type, or the run not of the kind that ``quantization``,
            ``symmetric`` or ``targets`` need.
        ExportError: If the graph cannot be made, or ``output_dir`` holds something else.
        OutputError: If ``output_dir`` cannot be written.
        ParityError: If the exported model does not compute what the simulation of training does.
    """
    check_target(Path(output_dir))
    trained = load_trained_run(Path(run))
    method = _method(trained.config, quantization)
    if symmetric and method != "qat":
        raise ConfigError([
            f"symmetric is a form of this project's own grids, and quantization {method} has none; "
            "`q8bert quantize --symmetric` gives them to a float run"
        ])  # fmt: skip
    refuse_targets(targets, method)
    source = trained.source(None if data_dir is None else str(data_dir))
    if trained.stopped_at is not None:
        step = trained.checkpoint.progress.step
        report(
            f"note: training was stopped at step {trained.stopped_at}, before its end; the best checkpoint so far, of "
            f"step {step}, is exported. `q8bert train` with the same options goes on"
        )
    model, config = trained.model, trained.config
    rewrite = _other_quantization(method, trained, source, report) if method in {"dynamic", "static"} else None
    with torch_threads(threads or config.execution.threads) as n_threads:
        assembled = assemble(model, report=report, rewrite=rewrite, symmetric=symmetric)
        parity = None
        if check_parity and rewrite is None:
            parity = compare_with_simulation(
                assembled.graph,
                model,
                trained.rows(source, "dev", report),
                split="dev",
                max_rows=parity_rows,
                batch_size=config.evaluation.eval_batch_size,
                threads=n_threads,
                report=report,
                show_progress=show_progress,
            )
        made = make_targets(targets, assembled.graph, model)
    bundle = write_bundle(
        Path(output_dir),
        graph=assembled.graph,
        targets=made,
        tokenizer=model.tokenizer(),
        configuration=model_configuration(model.source.model.config, labels=model.task.head.labels),
        manifest=make_manifest(
            model, method, fusion=assembled.fusion, saturation=assembled.saturation, symmetric=symmetric
        ),
        parity=parity,
    )
    return bundle, ExportReport(
        bundle=str(bundle.path),
        data_dir=source.data_dir if source.dev_file is None else None,
        dev_file=source.dev_file,
        precision=bundle.manifest.precision,
        quantization=method,
        model_size_bytes=bundle.model_size_bytes,
        checkpoint_step=trained.checkpoint.progress.step,
        float_layers=model.float_layers,
        float_layers_bytes=model.float_layers_bytes,
        metrics=trained.checkpoint.progress.metrics,
        fusion=assembled.fusion,
        saturation=assembled.saturation,
        parity=parity,
        targets=bundle.manifest.targets,
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


def _other_quantization(
    method: str, trained: TrainedRun, source: RowSource, report: Callable[[str], None]
) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def rewrite(graph: onnx.ModelProto) -> onnx.ModelProto:
        report(f"quantizing after training, {method}")
        if method == "dynamic":
            return quantize_after_training_dynamic(graph)
        rows = trained.rows(source, "train", report)
        order = np.random.default_rng(trained.config.seed).permutation(len(rows))[:_N_CALIBRATION_ROWS]
        size = trained.config.optimization.batch_size
        batches = (rows.inputs(order[at : at + size]) for at in range(0, len(order), size))
        return quantize_after_training_static(
            graph, ({name: tensor.numpy() for name, tensor in inputs.items()} for inputs in batches)
        )

    return rewrite
