"""The command ``export``: parse, call, print; and the place where all commands of this part are registered."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import Speaker, exit_codes, progress_bar
from q8bert.console.panels import PanelCommand
from q8bert.export.commands import quantize, sensitivity
from q8bert.export.commands.options import Symmetric, Targets
from q8bert.spec.bundle.bundle import PARITY_FILE

if TYPE_CHECKING:
    from q8bert.export.exporter import ExportReport
    from q8bert.export.proofs.parity_report import DifferingRow, ParityReport

__all__ = ["register"]

_N_ROWS_SHOWN = 3


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("export", cls=PanelCommand, short_help="Turn a run's best checkpoint into a bundle.")(export_command)
    quantize.register(app)
    sensitivity.register(app)


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as `q8bert train` wrote it.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of the bundle; an existing bundle there is replaced.")],
    quantization: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(
            help="qat, of a quantized run; none, of a --no-quantize run, or as baselines ONNX Runtime's own dynamic or "
            "static (our own is `q8bert quantize`). Default: qat or none."
        ),
    ] = None,
    data_dir: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Folder of the dev split for --parity, and of training rows for static. Default: the run's."),
    ] = None,
    parity: Annotated[
        bool, typer.Option(help="Compare the exported model with the simulation on the dev split.")
    ] = True,
    parity_rows: Annotated[
        int, typer.Option(min=0, help="Dev rows that are compared, evenly over the split; 0 for all.")
    ] = 512,
    symmetric: Symmetric = False,
    target: Targets = None,
    threads: Annotated[
        int,
        typer.Option(min=0, help="CPU threads. 0: those of the run, or those of the cores that the process may use."),
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, the rest on stderr.")] = False,
) -> None:
    """Turn a run's best checkpoint into a bundle: INT8 QDQ ONNX, tokenizer, labels, model card, manifest."""
    with exit_codes():
        speaker = Speaker(as_json=json)
        from q8bert.export import export  # noqa: PLC0415 - torch loads slowly

        with progress_bar(speaker, "comparing") as show:
            bundle, report = export(
                run, output_dir, quantization=quantization, data_dir=data_dir, check_parity=parity,
                parity_rows=parity_rows, symmetric=symmetric, targets=tuple(target or ()), threads=threads,
                report=speaker.say, show_progress=show,
            )  # fmt: skip
        table = _table(report)
        speaker.result(report, lambda console: console.print(table))
        speaker.next_command("predict", bundle.path, "--input", "ROWS", "--output", "predictions.jsonl")
        if report.precision == "int8":
            rows = ["--data-dir", report.data_dir] if report.dev_file is None else ["--data-file", report.dev_file]
            speaker.next_command("verify", bundle.path, "--reference", "FLOAT-BUNDLE", *rows, *_reading(run))


def _reading(run: Path) -> list[str]:
    """Return the options with which the run's files can be read again; a bundle does not know them."""
    from q8bert.training.runs.identity.run_record import read_run  # noqa: PLC0415 - torch loads slowly

    config = read_run(run)
    given = {"--format": config.format, "--schema": config.schema}
    options = [word for name, value in given.items() if value for word in (name, value)]
    return [*options, *(["--skip-malformed"] if config.skip_malformed else [])]


def _table(report: "ExportReport") -> Table:
    table = Table("", "value", title=escape(f"{report.bundle}, {report.precision}"))
    table.add_row("ONNX model", f"{report.model_size_bytes / 1e6:.1f} MB, quantization {report.quantization}")
    for target, form in report.targets.items():
        table.add_row(f"also for {target}", f"{form.file}, logits differ by {form.max_abs_diff:.2g} at most")
    table.add_row("checkpoint", f"of step {report.checkpoint_step}")
    if report.float_layers:
        more = report.float_layers_bytes
        table.add_row("left in float", f"{', '.join(report.float_layers)}: {more / 1e6:.1f} MB more than in INT8")
    fusion = report.fusion
    counts = f"{fusion.n_integer} in integers, {fusion.n_float} in float"
    table.add_row("products with weights", f"{counts} (ONNX Runtime {fusion.onnxruntime}, CPU)")
    if report.saturation is not None:
        found = report.saturation
        growth = f"scales {100 * (found.mean_scale_growth - 1):.0f} % larger for it"
        table.add_row(
            "pairs that can overflow",
            f"{found.n_unsafe} of {found.n_pairs:,} (were {found.n_unsafe_before:,}; {growth})",
        )
    is_after_training = report.quantization in {"dynamic", "static"}
    if is_after_training:
        table.add_row("pairs that can overflow", "not cured: results may differ on CPUs without VNNI")
    of_whom = " of the float model" if is_after_training else ", in training"
    for name, value in report.metrics.items():
        table.add_row(f"dev {name}{of_whom}", f"{100 * value:.2f}")
    if report.parity is not None:
        _add_parity(table, report.parity, is_float=report.precision == "float32")
    return table


def _add_parity(table: Table, parity: "ParityReport", *, is_float: bool) -> None:
    for name, value in parity.exported.items():
        rows = f"{parity.n_rows} of {parity.n_rows_in_split} rows"
        simulated = 100 * parity.free.metrics[name]
        table.add_row(
            f"dev {name}, on {rows}", f"{100 * value:.2f} exported ({parity.onnxruntime}), {simulated:.2f} simulated"
        )
    runs = {"simulation": parity.free} if is_float else {
        "simulation": parity.free, "simulation, same side at ties": parity.resolved,
    }  # fmt: skip
    for name, found in runs.items():
        table.add_row(
            name,
            f"{found.n_rows_differing} of {parity.n_rows} rows differ; logits by {found.max_abs_diff:.2g} at most, "
            f"{found.mean_abs_diff:.2g} on average",
        )
    if not is_float:
        table.add_row(
            "rounding ties",
            f"{parity.n_ties:,} of {parity.n_codes:,} codes, at most {parity.max_tie_distance:.1g} codes from a border",
        )
        for row in parity.differing_rows[:_N_ROWS_SHOWN]:
            table.add_row(f"row {row.row} of the dev split", _why(row))
        if len(parity.differing_rows) > _N_ROWS_SHOWN:
            table.add_row("", f"… all {len(parity.differing_rows)} in {PARITY_FILE}")
        table.add_row("effect of quantization", f"logits by {parity.quantization_effect:.2g} on average")


def _why(found: "DifferingRow") -> str:
    exported, simulated = (" ".join(f"{value:.4f}" for value in run) for run in (found.exported, found.simulated))
    ties = f"{found.n_ties} tie{'s' if found.n_ties > 1 else ''}" if found.n_ties else "no tie, float arithmetic alone"
    first = f", the first at {found.first_tie}, {found.first_tie_distance:.1g} codes from a border"
    return f"exported {exported}, simulation {simulated}: {ties}{first if found.first_tie else ''}"
