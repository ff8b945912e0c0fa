"""The command ``quantize``: parse, call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import GATE_FAILED, Speaker, exit_codes, line, progress_bar
from q8bert.console.panels import PanelCommand
from q8bert.export.commands.options import (
    QUANTIZATION,
    ROWS,
    AsJson,
    BatchSize,
    CalibrationRows,
    DataDir,
    FileFormat,
    Granularity,
    MaxLength,
    ModelArgument,
    RangePercentile,
    Ranges,
    Revision,
    Seed,
    SkipMalformed,
    Smoothing,
    Symmetric,
    TableGranularity,
    Targets,
    TaskFile,
    TaskName,
    Threads,
    ZeroPoints,
    help_of,
    optional_task,
)

if TYPE_CHECKING:
    from q8bert.export.one_shot.report import QuantizationReport

__all__ = ["register"]

_LIMITS, _PARITY = "Limits", "Parity"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("quantize", cls=PanelCommand, short_help="Turn a fine-tuned float model into a bundle.")(
        quantize_command
    )


def quantize_command(
    model: ModelArgument,
    output_dir: Annotated[Path, typer.Option(help="Folder of the bundle; an existing bundle there is replaced.")],
    calibration_data: Annotated[
        Optional[Path],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(
            help="File of some hundred rows as the model will meet them; labels are not read. Default: the training "
            "split of --data-dir.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    eval_data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="File of labelled rows to score both models on. Default: the --split of --data-dir; without either, "
            "models are compared without labels, on rows held out of the calibration file.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(help="Split of --data-dir to score on.", rich_help_panel=ROWS)] = "dev",
    task: TaskName = None,
    task_file: TaskFile = None,
    calibration_rows: CalibrationRows = 512,
    format: FileFormat = None,
    skip_malformed: SkipMalformed = False,
    seed: Seed = 11,
    revision: Revision = None,
    max_length: MaxLength = None,
    granularity: Granularity = "per_channel",
    table_granularity: TableGranularity = "per_column",
    ranges: Ranges = "mean",
    range_percentile: RangePercentile = None,
    smoothing: Smoothing = True,
    zero_points: ZeroPoints = True,
    keep_float: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help=help_of("keep_float"), rich_help_panel=QUANTIZATION),
    ] = None,
    symmetric: Symmetric = False,
    target: Targets = None,
    max_relative_loss: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Largest relative loss of the main metric that passes, which needs labels. Default: 0.01, which is "
            "1 %, where there are any.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_logit_error: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.0,
            help="Largest squared error of the logits, relative to their variance, that passes. Default: any.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    min_agreement: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.0,
            max=1.0,
            help="Smallest share of rows with the float model's label that passes. Default: any.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    parity: Annotated[
        bool, typer.Option(help="Compare the exported model with its simulation.", rich_help_panel=_PARITY)
    ] = True,
    parity_rows: Annotated[
        int, typer.Option(min=0, help="Rows that are compared; 0 for all.", rich_help_panel=_PARITY)
    ] = 128,
    batch_size: BatchSize = 32,
    threads: Threads = 0,
    json: AsJson = False,
) -> None:
    """Turn a fine-tuned float model into an INT8 bundle without training; exits 1 where it loses more than it may."""
    with exit_codes():
        speaker = Speaker(as_json=json)
        chosen = optional_task(task, task_file)
        from q8bert.export import quantize  # noqa: PLC0415 - torch loads slowly

        with progress_bar(speaker, "working") as show:
            bundle, report = quantize(
                model, output_dir, calibration_data=calibration_data, eval_data=eval_data, data_dir=data_dir,
                split=split, task=chosen, revision=revision, max_length=max_length, granularity=granularity,
                table_granularity=table_granularity, ranges=ranges,
                range_percentile=range_percentile, smoothing=smoothing, zero_points=zero_points,
                keep_float=tuple(keep_float or ()), calibration_rows=calibration_rows,
                max_relative_loss=max_relative_loss, max_logit_error=max_logit_error, min_agreement=min_agreement,
                check_parity=parity, parity_rows=parity_rows, symmetric=symmetric,
                targets=tuple(target or ()), format=format,
                skip_malformed=skip_malformed, batch_size=batch_size, threads=threads, seed=seed, report=speaker.say,
                show_progress=show,
            )  # fmt: skip
        for row in report.skipped:
            speaker.say(f"skipped: {row}")
        table = _table(report)

        def render(console: Console) -> None:
            console.print(table)
            line(console, "PASSED" if report.passed else "FAILED: " + "; ".join(report.failures))

        speaker.result(report, render)
        if not report.passed:
            for sentence in _remedies(report):
                speaker.say(sentence)
            raise typer.Exit(GATE_FAILED)
        speaker.next_command("predict", bundle.path, "--input", "ROWS", "--output", "predictions.jsonl")


def _table(report: "QuantizationReport") -> Table:
    found, fusion, saturation = report.comparison, report.fusion, report.saturation
    table = Table("", "value", title=escape(f"{report.bundle}, int8"))
    table.add_row("labels", escape(", ".join(report.labels) or "none, a score"))
    table.add_row("ONNX model", f"{report.model_size_bytes / 1e6:.1f} MB, {report.size_ratio:.2f} × smaller than float")
    table.add_row("calibrated with", escape(f"{report.n_calibration_rows} rows of {report.calibration_source}"))
    if report.float_layers:
        more = f"{report.float_layers_bytes / 1e6:.1f} MB more than in INT8"
        table.add_row("left in float", f"{', '.join(report.float_layers)}: {more}")
    counts = f"{fusion.n_integer} in integers, {fusion.n_float} in float"
    table.add_row("products with weights", f"{counts} (ONNX Runtime {fusion.onnxruntime}, CPU)")
    table.add_row(
        "pairs that can overflow",
        f"{saturation.n_unsafe} of {saturation.n_pairs:,} (were {saturation.n_unsafe_before:,})",
    )
    if (parity := report.parity) is not None:
        table.add_row(
            "equal to its simulation",
            f"on {parity.n_rows} rows: {parity.resolved.n_rows_differing} predictions differ, logits by "
            f"{parity.resolved.max_abs_diff:.2g} at most, with the same side taken at {parity.n_ties:,} rounding ties",
        )
    rows = f"{found.n_rows} {found.split} rows"
    for name, value in found.metrics.items():
        table.add_row(f"{name}, {rows}", f"{100 * value:.2f} in INT8, {100 * found.float_metrics[name]:.2f} in float")
    if found.agreement is not None:
        table.add_row(f"same label, {rows}", f"{100 * found.agreement:.2f} %")
    else:
        table.add_row(f"rank correlation with float, {rows}", f"{found.rank_correlation:.4f}")
    table.add_row("difference of a logit", f"{found.mean_abs_diff:.2g} on average, {found.max_abs_diff:.2g} at most")
    table.add_row("squared error of logits / their variance", f"{found.relative_error:.2g}")
    return table


def _remedies(report: "QuantizationReport") -> list[str]:
    train = "train with quantization awareness (`q8bert train`)"
    if (found := report.suggestion) is None:
        return [f"no layers were found whose keeping in float would help enough: {train}"]
    keep = " ".join(f"--keep-float {name}" for name in found.keep_float)
    return [
        f"with {len(found.keep_float)} layers in float the squared error of the logits falls to "
        f"{found.change.relative_error:.2g} on held-out rows, and the model grows by {found.extra_bytes / 1e6:.1f} MB: "
        f"{keep}",
        f"`q8bert sensitivity` finds the least layers for a loss that you name; or {train}",
    ]
