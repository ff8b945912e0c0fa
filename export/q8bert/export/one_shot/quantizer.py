"""A fine-tuned float model and some hundred rows without labels → an INT8 bundle, without training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from q8bert.data.readers import Format
from q8bert.export.assembly import ParityRows, assemble, compare_with_simulation
from q8bert.export.bundle.library_files import model_configuration
from q8bert.export.bundle.manifest import make_manifest
from q8bert.export.bundle.writer import check_target, write_bundle
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.one_shot.evaluation import compare_with_float, evaluation_rows, suggest_layers
from q8bert.export.one_shot.report import Limits, QuantizationReport, failures
from q8bert.export.post_training.calibration import ROWS_PER_OBSERVATION, calibrated
from q8bert.export.post_training.given import Asked, Given, read_given
from q8bert.export.post_training.options import ONE_SHOT_RANGES, one_shot_options
from q8bert.export.post_training.rows import CALIBRATION_ROWS, HELD_OUT_ROWS
from q8bert.export.target_graphs import make_targets
from q8bert.spec.bundle.bundle import Bundle
from q8bert.spec.bundle.targets import TARGETS
from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError, ExportError
from q8bert.spec.kinds import Check, at_least, one_of
from q8bert.tasks.task import Task
from q8bert.training.engines.threads import torch_threads
from q8bert.training.models.source import count_parameters
from q8bert.training.quantization.config import GRANULARITIES, TABLE_GRANULARITIES, QuantizationConfig

__all__ = ["PARITY_ROWS", "quantize"]

# rows that the exported model is compared on with its simulation, which takes five runs of a model
PARITY_ROWS = 128
_MAX_RELATIVE_LOSS = 0.01
_SHARE = Check("from 0 to 1", lambda value: 0 <= value <= 1)


@checked
def quantize(
    model: Path | str,
    output_dir: Path | str,
    *,
    calibration_data: Path | str | None = None,
    eval_data: Path | str | None = None,
    data_dir: Path | str | None = None,
    split: str = "dev",
    task: Task | None = None,
    revision: str | None = None,
    max_length: Annotated[int, at_least(8)] | None = None,
    granularity: Annotated[str, one_of(GRANULARITIES)] = GRANULARITIES[0],
    table_granularity: Annotated[str, one_of(TABLE_GRANULARITIES)] = TABLE_GRANULARITIES[0],
    ranges: Annotated[str, one_of(ONE_SHOT_RANGES)] = ONE_SHOT_RANGES[0],
    range_percentile: float | None = None,
    smoothing: bool = True,
    zero_points: bool = True,
    keep_float: tuple[str, ...] = (),
    calibration_rows: Annotated[int, at_least(1)] = CALIBRATION_ROWS,
    max_relative_loss: float | None = None,
    max_logit_error: Annotated[float, at_least(0)] | None = None,
    min_agreement: Annotated[float, _SHARE] | None = None,
    check_parity: bool = True,
    parity_rows: ParityRows = PARITY_ROWS,
    symmetric: bool = False,
    targets: tuple[Annotated[str, one_of(TARGETS)], ...] = (),
    format: Format = None,  # noqa: A002 - as on the command line
    skip_malformed: bool = False,
    batch_size: Annotated[int, at_least(1)] = 32,
    threads: Annotated[int, at_least(0)] = 0,
    seed: Annotated[int, at_least(0)] = 11,
    report: Callable[[str], None] = lambda _: None,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Bundle, QuantizationReport]:
    """Quantize a fine-tuned float model without training it.

    The graph is that of a quantization-aware run: the same sites, grids, smoothing and proofs; only the ranges are
    those of rows that the float model is run on once.

    Args:
        model: Folder or hub id of a fine-tuned sequence classifier or regressor of transformers, or folder of a run of
            ``q8bert train --no-quantize``.
        output_dir: The bundle's folder; an existing bundle there is replaced.
        calibration_data: File of rows as the model will meet them, with or without labels, which are not read; by
            default the training split of ``data_dir``.
        eval_data: File of labelled rows to score both models on; by default the split of ``data_dir``. Without either,
            the models are compared without labels, on rows that were not calibrated with.
        data_dir: The task's own folder, as ``train`` takes it; by default a run's own.
        split: Which split of it scores both models.
        task: Columns and labels; by default a run's own, or ``text``, ``text_pair``, ``label`` and the model's
            ``id2label``.
        revision: Branch, tag or commit of the hub.
        max_length: Longest row in tokens; by default the run's, or the longest that model and tokenizer take.
        granularity: ``per_channel`` or ``per_tensor``, of the scales of Linear weights.
        table_granularity: ``per_column`` or ``per_tensor``, of the scales of embedding tables.
        ranges: ``mean`` of the largest values of groups of rows, or ``percentile`` of all values.
        range_percentile: Percentile that ranges reach to; by default as in training.
        smoothing: Whether outlier channels are smoothed.
        zero_points: Whether activations that lie to one side have zero points.
        keep_float: Patterns of layers that stay float.
        calibration_rows: Rows to calibrate with, at most.
        max_relative_loss: Largest relative loss of the main metric that passes, which needs labels; by default 0.01
            where there are any.
        max_logit_error: Largest relative error of the logits that passes; None for any.
        min_agreement: Smallest share of rows with the float model's label that passes; None for any.
        check_parity: False leaves the comparison with the simulation out.
        parity_rows: Rows that it takes; 0 for all.
        symmetric: As :func:`q8bert.export.export` takes it, for runtimes that want zero point 0.
        targets: As :func:`q8bert.export.export` takes them, other forms of the model for other runtimes.
        format: How files are written; see :func:`q8bert.data.readers.read_file`.
        skip_malformed: Leave malformed rows out instead of stopping.
        batch_size: Rows a batch where models are compared.
        threads: CPU threads; 0 for those of the cores that this process may use.
        seed: Of the draw of rows.
        report: Called with a sentence at every stage.
        show_progress: Called with rows done and rows in all, anew for every stage.

    Returns:
        The bundle, and what was measured; ``passed`` says whether it keeps to the limits.

    Raises:
        ConfigError: If an argument is of another type or arguments do not go together, or the float model scores zero.
        ExportError: If the graph cannot be made, or ``output_dir`` holds something else.
        InputError: If rows cannot be read, or are too few.
        ModelError: If the model cannot be found, has no trained head for the task, or cannot be quantized.
        OutputError: If ``output_dir`` cannot be written.
        ParityError: If the exported model does not compute what its simulation does.
    """
    if eval_data is not None and split != "dev":
        raise ConfigError([f"split ({split}) is of --data-dir, and --eval-data is a file; leave one of them out"])
    check_target(Path(output_dir))
    options = one_shot_options(
        granularity=granularity, table_granularity=table_granularity, ranges=ranges, range_percentile=range_percentile,
        smoothing=smoothing, zero_points=zero_points, keep_float=keep_float,
    )  # fmt: skip
    limits = Limits(
        max_relative_loss=_MAX_RELATIVE_LOSS if max_relative_loss is None else max_relative_loss,
        max_logit_error=max_logit_error,
        min_agreement=min_agreement,
    )
    asked = Asked(
        model=str(model),
        rows=None if calibration_data is None else Path(calibration_data),
        rows_option="--calibration-data",
        data_dir=None if data_dir is None else str(data_dir),
        task=task,
        revision=revision,
        max_length=max_length,
        format=format,
        skip_malformed=skip_malformed,
        seed=seed,
    )
    given = read_given(asked, n_calibration=calibration_rows, n_held_out=HELD_OUT_ROWS, labelled=False, report=report)
    if min_agreement is not None and given.model.task.head.is_regression:
        raise ConfigError(["min_agreement is for labels, and this model gives a score; max_logit_error is for both"])
    rows, rows_name = evaluation_rows(
        given, None if eval_data is None else Path(eval_data), split, report, format=format
    )
    if max_relative_loss is not None and rows.labels is None:
        raise ConfigError([
            f"a relative loss of at most {max_relative_loss:g} is wanted, but no labelled rows are given to measure it "
            "on; give --eval-data, or limit --max-logit-error or --min-agreement"
        ])  # fmt: skip
    with torch_threads(threads) as n_threads:
        report(f"observing the activations of {len(given.calibration)} rows")
        quantized = calibrated(given.model, given.calibration, options=options, seed=seed, show_progress=show_progress)
        n_smoothed = sum(bool(site.smoothing) for site in quantized.sites)
        n_shifted = sum(site.zero_point != 0 for site in quantized.sites)
        report(f"of {len(quantized.sites)} activations {n_smoothed} have outliers smoothed, {n_shifted} a zero point")
        quantized = _with_origin(quantized, given, options)
        assembled = assemble(quantized, report=report, symmetric=symmetric)
        parity = None
        if check_parity:
            parity = compare_with_simulation(
                assembled.graph, quantized, rows, split=rows_name, max_rows=parity_rows, batch_size=batch_size,
                threads=n_threads, report=report, show_progress=show_progress,
            )  # fmt: skip
        report(f"comparing INT8 with float on {len(rows)} {rows_name} rows")
        comparison = compare_with_float(
            assembled.graph, quantized, rows, split=rows_name, batch_size=batch_size, threads=n_threads,
            show_progress=show_progress,
        )  # fmt: skip
        if comparison.relative_error > 1:
            report(
                "warning: INT8 is further from float than one answer for all rows would be. Is the model fine-tuned?"
            )
        found = failures(comparison, limits)
        suggestion = None
        if found:
            report("looking for layers to keep in float")
            suggestion = suggest_layers(quantized, given.held_out, limits, show_progress=show_progress)
    if assembled.saturation is None:
        raise ExportError("nothing was proven of the weights' products")  # of no model with grids
    bundle = write_bundle(
        Path(output_dir),
        graph=assembled.graph,
        targets=make_targets(targets, assembled.graph, quantized),
        tokenizer=quantized.tokenizer(),
        configuration=model_configuration(quantized.source.model.config, labels=quantized.task.head.labels),
        manifest=make_manifest(
            quantized,
            "ptq",
            fusion=assembled.fusion,
            saturation=assembled.saturation,
            comparison=comparison,
            symmetric=symmetric,
        ),
        parity=parity,
    )
    float_size = 4 * count_parameters(quantized.source.model)
    return bundle, QuantizationReport(
        bundle=str(bundle.path),
        source=str(model),
        task=quantized.task.name,
        labels=quantized.task.head.labels,
        max_length=quantized.max_length,
        model_size_bytes=bundle.model_size_bytes,
        float_size_bytes=float_size,
        size_ratio=float_size / bundle.model_size_bytes,
        calibration_source=given.source,
        n_calibration_rows=len(given.calibration),
        calibration_sha256=given.fingerprint.sha256,
        float_layers=quantized.float_layers,
        float_layers_bytes=quantized.float_layers_bytes,
        fusion=assembled.fusion,
        saturation=assembled.saturation,
        parity=parity,
        comparison=comparison,
        limits=limits,
        passed=not found,
        failures=found,
        suggestion=suggestion,
        skipped=given.skipped,
    )


def _with_origin(quantized: ModelToExport, given: Given, options: QuantizationConfig) -> ModelToExport:
    calibration = {
        "n_rows": given.fingerprint.size,
        "rows_sha256": given.fingerprint.sha256,
        "rows_per_observation": ROWS_PER_OBSERVATION,
    }
    ranges = {"ranges": "mean"} if options.percentile is None else {
        "ranges": "percentile", "range_percentile": options.percentile,
    }  # fmt: skip
    description = {"calibration": calibration, **ranges}
    return replace(quantized, origin=replace(quantized.origin, metrics={}, quantization=description))
