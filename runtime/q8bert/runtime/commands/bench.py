"""The command ``bench``: what is fastest on this machine, and the options that follow from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import Speaker, exit_codes, line, progress_bar
from q8bert.runtime.commands.options import HARDWARE, ROWS, AsJson, BundleArgument, FileFormat
from q8bert.runtime.engines.engine import ENGINES

if TYPE_CHECKING:
    from q8bert.runtime.bench.report import BenchmarkReport

__all__ = ["bench_command"]

_MANY = 100  # calls that a 99th percentile is worth its name of
_WIDTH = 120


def bench_command(
    bundle: BundleArgument,
    data: Annotated[
        Optional[Path],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(
            help="File of rows as the model will meet them, labelled or not. Default: rows made of the vocabulary.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    format: FileFormat = None,
    length: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            min=1,
            help="Tokens of the rows that are made; repeat for several. Default: a quarter, half and all of the "
            "bundle's maximum length.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    engine: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help=f"{' or '.join(ENGINES)}; repeat for both. Default: what is installed.", rich_help_panel=HARDWARE
        ),
    ] = None,
    threads: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            min=1,
            help="CPU threads; repeat for several. Default: 1, half and all of the cores that this process may use.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    batch_size: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(min=1, help="Rows a call; repeat for several. Default: 1, 8 and 32.", rich_help_panel=HARDWARE),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long to time; every setting has three turns at least.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the rows that are made, and of the order of turns.")] = 0,
    json: AsJson = False,
) -> None:
    """Time a bundle on this machine, from texts to answers, and name the fastest options for a service and a batch."""
    with exit_codes():
        speaker = Speaker(as_json=json)
        from q8bert.runtime.bench.benchmark import BATCH_SIZES, benchmark  # noqa: PLC0415 - onnxruntime loads slowly

        with progress_bar(speaker, "timing, seconds") as show:
            report = benchmark(
                bundle, data=data, format=format, engines=tuple(engine or ()), threads=tuple(threads or ()),
                batch_sizes=tuple(batch_size or BATCH_SIZES), lengths=tuple(length or ()), seconds=seconds, seed=seed,
                report=speaker.say, show_progress=show,
            )  # fmt: skip
        for name, reason in report.left_out.items():
            speaker.say(f"left out: {name}: {reason}")
        speaker.result(report, lambda console: _render(console, report))


def _render(console: Console, report: "BenchmarkReport") -> None:
    console.width = max(console.width, _WIDTH)  # figures that are cut are of no use
    engines = ", ".join(f"{engine} {release}" for engine, release in report.versions.items())
    title = f"{report.bundle}, {report.cpu}, {report.cores} cores, {engines}; {report.rows}"
    table = Table("engine", "threads", title=escape(title))
    for name in ("rows a call", "p50 ms", "p99 ms", "rows a second", "noise", "CPU ms a row"):
        table.add_column(name, justify="right")
    fastest = max(one.rows_per_second for one in report.results)
    for one in report.results:
        few = "*" if one.n_calls < _MANY else ""
        mark = "→ " if one.rows_per_second == fastest else ""
        table.add_row(
            one.engine, f"{one.threads}{', spinning' * one.spinning}", str(one.batch_size), f"{one.p50_ms:.2f}",
            f"{one.p99_ms:.2f}{few}", f"{mark}{one.rows_per_second:.0f}", f"± {50 * one.noise:.0f} %",
            f"{one.cpu_ms_per_row:.2f}",
        )  # fmt: skip
    console.print(table, crop=False)
    if any(one.n_calls < _MANY for one in report.results):
        line(console, f"* of fewer than {_MANY} calls, the longest")
    line(
        console,
        f"half of the {report.n_rounds} rounds lie within the noise; CPU time is what a busy machine moves least",
    )
    line(console, f"service: {report.service.line}")
    line(console, f"batch:   {report.batch.line}")
