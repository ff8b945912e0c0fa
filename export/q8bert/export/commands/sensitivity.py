"""The command ``sensitivity``: parse, call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import GATE_FAILED, Speaker, exit_codes, line, progress_bar
from q8bert.console.panels import PanelCommand
from q8bert.export.commands.options import (
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
    TableGranularity,
    TaskFile,
    TaskName,
    Threads,
    ZeroPoints,
    optional_task,
)

if TYPE_CHECKING:
    from q8bert.export.sensitivity.measurement import Change
    from q8bert.export.sensitivity.report import SensitivityReport

__all__ = ["register"]

_WANTED = "Wanted"
_WIDTH = 120


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("sensitivity", cls=PanelCommand, short_help="Say what INT8 costs at every layer of a float model.")(
        sensitivity_command
    )


def sensitivity_command(
    model: ModelArgument,
    data: Annotated[
        Optional[Path],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(
            help="File of rows as the model will meet them, labelled or not; some are calibrated with, others "
            "measured on. Default: the training split of --data-dir.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    data_dir: DataDir = None,
    task: TaskName = None,
    task_file: TaskFile = None,
    calibration_rows: CalibrationRows = 512,
    rows: Annotated[int, typer.Option(min=2, help="Other rows to measure on, at most.", rich_help_panel=ROWS)] = 128,
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
    max_logit_error: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.0,
            help="Propose layers to keep in float until the squared error of the logits, relative to their variance, "
            "is at most this.",
            rich_help_panel=_WANTED,
        ),
    ] = None,
    max_relative_loss: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Propose layers to keep in float until the main metric loses at most this, with labelled rows; 0.01 "
            "is 1 %.",
            rich_help_panel=_WANTED,
        ),
    ] = None,
    batch_size: BatchSize = 8,
    threads: Threads = 0,
    json: AsJson = False,
) -> None:
    """Say what INT8 costs at every layer, alone and left out; exits 1 where a wanted loss cannot be reached."""
    with exit_codes():
        speaker = Speaker(as_json=json)
        chosen = optional_task(task, task_file)
        from q8bert.export import examine_sensitivity  # noqa: PLC0415 - torch loads slowly

        with progress_bar(speaker, "measuring") as show:
            report = examine_sensitivity(
                model, data=data, data_dir=data_dir, task=chosen, revision=revision, max_length=max_length,
                granularity=granularity, table_granularity=table_granularity, ranges=ranges,
                range_percentile=range_percentile, smoothing=smoothing, zero_points=zero_points,
                calibration_rows=calibration_rows, rows=rows, max_logit_error=max_logit_error,
                max_relative_loss=max_relative_loss, format=format,
                skip_malformed=skip_malformed, batch_size=batch_size, threads=threads, seed=seed,
                report=speaker.say, show_progress=show,
            )  # fmt: skip
        for row in report.skipped:
            speaker.say(f"skipped: {row}")

        def render(console: Console) -> None:
            # names of layers are long, and cut they are of no use: a narrow terminal wraps the lines
            console.width = max(console.width, _WIDTH)
            console.print(_table(report), crop=False)
            line(console, _proposal(report))

        speaker.result(report, render)
        if not report.is_reached:
            raise typer.Exit(GATE_FAILED)


def _table(report: "SensitivityReport") -> Table:
    found = report.measured
    title = (
        f"{report.source}: squared error of logits / their variance, on {report.n_rows} rows of {report.rows_source}"
    )
    columns = ["INT8", "kind", "alone", "all but it"]
    if report.main_metric is not None:
        columns += [f"{report.main_metric} alone", "all but it"]
    table = Table(*columns, title=escape(title))

    def add(name: str, kind: str, alone: "Change | None", all_but: "Change | None") -> None:
        cells = [name, kind, *(f"{one.relative_error:.2g}" if one else "" for one in (alone, all_but))]
        if report.main_metric is not None:
            cells += [_points(alone), _points(all_but)]
        table.add_row(*cells)

    if report.main_metric is not None:
        table.add_row("nothing", "", "0", "", f"{100 * (found.float_score or 0.0):.2f}", "")
    add("everything", "", found.whole, None)
    for name, change in found.groups.items():
        add(f"all {name}", "", change, None)
    for part in sorted(found.parts, key=lambda part: part.all_but.relative_error):
        add(part.name, part.kind, part.alone, part.all_but)
    return table


def _points(change: "Change | None") -> str:
    return "" if change is None or change.score is None else f"{100 * change.score:.2f}"


def _proposal(report: "SensitivityReport") -> str:
    if (found := report.proposal) is None:
        if report.is_reached:
            return "--max-logit-error or --max-relative-loss name a loss that layers to keep in float are looked for"
        return "no layers were found with which the loss that is wanted is reached: train with quantization awareness"
    if not found.keep_float:
        return "nothing needs to be kept in float"
    keep = " ".join(f"--keep-float {name}" for name in found.keep_float)
    score = "" if found.change.score is None else f", {report.main_metric} {100 * found.change.score:.2f}"
    return (
        f"{keep}\nleaves an error of {found.change.relative_error:.2g}{score}, and makes the model "
        f"{found.extra_bytes / 1e6:.1f} MB larger"
    )
