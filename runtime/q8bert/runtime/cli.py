"""The ``q8bert`` command: finds the commands of all installed parts by entry point."""

import io
import sys
from collections.abc import Callable
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from q8bert.machine.openmp import sleep_soon

__all__ = ["build_app", "main"]

ENTRY_POINT_GROUP = "q8bert.commands"


def build_app() -> typer.Typer:
    """Return the application with every command registered."""
    app = typer.Typer(
        name="q8bert",
        help="Quantization-aware fine-tuning of BERT, INT8 ONNX export, and torch-free INT8 inference.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        _show_version: Annotated[
            bool,
            typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True),
        ] = False,
    ) -> None:
        pass

    order = {"train": 0, "export": 1}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: order.get(entry.name, 2)):
        register: Callable[[typer.Typer], None] = entry.load()
        register(app)
    return app


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe on Windows has no arrow; that is no failure
    sleep_soon()
    build_app()()


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"q8bert {version('q8bert')}")
        raise typer.Exit
