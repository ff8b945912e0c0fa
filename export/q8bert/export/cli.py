"""The command ``export``: parse, call, print."""

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from q8bert.glue.command import Speaker, exit_codes

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("export")(export_command)


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as `q8bert train` wrote it.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of the bundle; an existing bundle there is replaced.")],
    data_dir: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(help="Folder whose dev split the parity is measured on. Default: the run's own."),
    ] = None,
    parity: Annotated[
        bool, typer.Option(help="Compare the exported model with the simulation on the dev split.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, the rest on stderr.")] = False,
) -> None:
    """Turn a run's best checkpoint into a bundle: INT8 QDQ ONNX, tokenizer, labels, manifest."""
    with exit_codes():
        speaker = Speaker(as_json=json)
        from q8bert.export import export  # noqa: PLC0415 - torch loads slowly

        _, report = export(run, output_dir, data_dir=data_dir, check_parity=parity, report=speaker.say)
        table = Table("", "value", title=f"{report.bundle}, {report.precision}")
        table.add_row("ONNX model", f"{report.model_size_bytes / 1e6:.1f} MB")
        if report.float_layers:
            more = report.float_layers_bytes
            table.add_row("left in float", f"{', '.join(report.float_layers)}: {more / 1e6:.1f} MB more than in INT8")
        for name, value in report.metrics.items():
            table.add_row(f"dev {name}, in training", f"{100 * value:.2f}")
        if report.parity is not None:
            found = report.parity
            for name, value in found.exported.items():
                table.add_row(f"dev {name}, exported", f"{100 * value:.2f}")
            table.add_row("equal predictions", f"{found.equal_predictions:.2%} of {found.n_rows}")
            table.add_row("logit difference", f"largest {found.max_abs_diff:.4f}, mean {found.mean_abs_diff:.5f}")
            if report.precision == "int8":
                table.add_row("effect of quantization", f"mean {found.quantization_effect:.5f}")

        def render(console: Console) -> None:
            console.print(table)

        speaker.result(report, render)
