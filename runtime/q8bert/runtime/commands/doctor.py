"""The command ``doctor``: what this environment can do."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import GATE_FAILED, Speaker, exit_codes, line
from q8bert.runtime.commands.options import AsJson

__all__ = ["doctor_command"]


def doctor_command(
    device: Annotated[
        bool,
        typer.Option(help="Whether a GPU build needs a GPU here; --no-device for an image built without one."),
    ] = True,
    json: AsJson = False,
) -> None:
    """Say what this environment can do and what it lacks; exits 1 if something installed cannot be used."""
    with exit_codes():
        from q8bert.runtime.doctor import examine  # noqa: PLC0415 - onnxruntime loads slowly

        speaker = Speaker(as_json=json)
        report = examine(device=device)
        table = Table("", "found", title="q8bert doctor")
        for name, number in report.versions.items():
            table.add_row(name, number)
        table.add_row("trains", "yes" if report.extras["train"] else escape('no; pip install "q8bert[train]" would'))
        if report.builds_gradients:
            table.add_row("", "--gradients onnxruntime-training can be asked for")
        table.add_row("engines", ", ".join(report.engines) or "none")
        table.add_row("execution providers", ", ".join(report.execution_providers) or "none")
        table.add_row("extras", ", ".join(name for name, there in report.extras.items() if there) or "none")
        table.add_row("INT8 on this CPU", ", ".join(report.cpu_features) or "unknown")
        if report.computes_bfloat16:
            table.add_row("bfloat16 on this CPU", "in hardware; --engine torch --precision bfloat16 may train faster")
        for name, path in report.cuda_libraries.items():
            table.add_row(name, path or "missing")
        table.add_row("CUDA driver", report.cuda_driver or "none")
        table.add_row("CUDA devices", ", ".join(report.cuda_devices) or "none")

        def render(console: Console) -> None:
            console.print(table)
            for problem in report.problems:
                line(console, f"problem: {problem}")
            line(console, "HEALTHY" if report.healthy else "NOT HEALTHY")

        speaker.result(report, render)
        if not report.healthy:
            raise typer.Exit(GATE_FAILED)
