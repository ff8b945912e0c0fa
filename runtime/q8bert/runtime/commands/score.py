"""The command ``score``: files of rows in, the same files with answers out."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from q8bert.console.command import Speaker, exit_codes, line
from q8bert.runtime.commands.options import (
    HARDWARE,
    OUTPUT,
    ROWS,
    AsJson,
    BatchSize,
    Bfloat16,
    BundleArgument,
    Engine,
    Graph,
    Providers,
    RefuseLong,
    Threads,
    parse_providers,
    ready,
)
from q8bert.runtime.engines.engine import ONNX_RUNTIME
from q8bert.runtime.predict.graph_choice import AUTO
from q8bert.runtime.scoring.reading.formats import SCORED_FORMATS

if TYPE_CHECKING:
    from q8bert.runtime.scoring.scoring import ScoreProgress, ScoreReport

__all__ = ["score_command"]

# where stderr is no terminal: seconds between two lines
_LINE_SECONDS = 30.0


def score_command(
    bundle: BundleArgument,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Files, or folders of them: CSV, tab-separated tables, JSON lines, Parquet.", metavar="INPUT"
        ),
    ],
    output_dir: Annotated[
        Path,
        typer.Option(
            help="Folder to write to: a file for each input, in the layout of the input's folder. Given again, "
            "the command goes on with the files that are not there yet."
        ),
    ],
    text: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(help="Column of the text. Default: the task's own, or text.", rich_help_panel=ROWS),
    ] = None,
    text_pair: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column of the second text. Default: the task's own, or text_pair.", rich_help_panel=ROWS),
    ] = None,
    format: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help=f"How the input is written: {', '.join(SCORED_FORMATS)}. Default: by its ending.", rich_help_panel=ROWS
        ),
    ] = None,
    skip_malformed: Annotated[
        bool,
        typer.Option(
            "--skip-malformed",
            help="Write malformed rows without an answer, with a column that says why, instead of stopping.",
            rich_help_panel=ROWS,
        ),
    ] = False,
    refuse_long: RefuseLong = False,
    output_format: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help=f"How to write: {', '.join(SCORED_FORMATS)}. Default: as the input.", rich_help_panel=OUTPUT),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="What the names of the new columns begin with.", rich_help_panel=OUTPUT)
    ] = "",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what another job left in the output folder.", rich_help_panel=OUTPUT),
    ] = False,
    ray: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="ADDRESS",
            help="Score on Ray: local starts it here, auto joins this machine's cluster, HOST:PORT another.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    ray_actors: Annotated[
        int, typer.Option(min=0, help="Engines on Ray; 0: as many as fit.", rich_help_panel=HARDWARE)
    ] = 0,
    engine: Engine = ONNX_RUNTIME,
    provider: Providers = None,
    graph: Graph = AUTO,
    threads: Threads = 0,
    bfloat16: Bfloat16 = False,
    batch_size: BatchSize = 32,
    json: AsJson = False,
) -> None:
    """Score whole files, and write each with the answers beside its columns."""
    with exit_codes():
        speaker = ready(engine, as_json=json, scoring=False)
        from q8bert.runtime.scoring.scoring import score_files  # noqa: PLC0415 - onnxruntime loads slowly

        with _progress(speaker) as show:
            report = score_files(
                bundle,
                inputs,
                output_dir,
                text=text,
                text_pair=text_pair,
                format=format,
                output_format=output_format,
                prefix=prefix,
                skip_malformed=skip_malformed,
                overwrite=overwrite,
                on_long="refuse" if refuse_long else "truncate",
                engine=engine,
                providers=parse_providers(provider),
                graph=graph,
                threads=threads,
                bfloat16=bfloat16,
                batch_size=batch_size,
                ray=ray,
                ray_actors=ray_actors,
                show_progress=show,
            )
        for path in report.changed:
            speaker.say(f"made anew, for its input or itself was another: {path}")
        for fault in report.malformed:
            speaker.say(f"without an answer: {fault}")
        if report.n_malformed:
            speaker.say(f"rows without an answer: {report.n_malformed}")
        if report.n_truncated:
            speaker.say(f"truncated rows, longer than the bundle's maximum length: {report.n_truncated}")
        speaker.result(report, lambda console: _show(console, report))


def _show(console: Console, report: "ScoreReport") -> None:
    kept = f", {report.n_kept} kept from before" if report.n_kept else ""
    speed = f", {report.rows_per_second:,.0f} rows/s" if report.n_rows_scored else ""
    files = "1 file" if report.n_files == 1 else f"{report.n_files} files"
    line(console, f"{report.n_rows} rows in {files}{kept} → {report.output_dir}{speed}")


@contextmanager
def _progress(speaker: Speaker) -> Iterator[Callable[["ScoreProgress"], None]]:
    """Show how far a job is: a bar on a terminal, otherwise a line now and then."""
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("scoring"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), note)
    is_terminal = speaker.console.is_terminal
    started = last = time.monotonic()
    with Progress(*columns, console=speaker.console, transient=True, disable=not is_terminal) as progress:
        bar = progress.add_task("scoring", total=None, note="")

        def show(now: "ScoreProgress") -> None:
            nonlocal last
            seconds = max(time.monotonic() - started, 1e-9)
            note = (
                f"{now.n_rows:,} rows, {now.n_rows / seconds:,.0f} rows/s, file {now.n_files_done + 1} of {now.n_files}"
            )
            progress.update(bar, completed=now.bytes_done, total=now.bytes_total, note=note)
            if not is_terminal and time.monotonic() - last >= _LINE_SECONDS:
                last = time.monotonic()
                left = seconds * (now.bytes_total - now.bytes_done) / max(1, now.bytes_done)
                speaker.say(f"{note}, {_duration(left)} left")

        yield show


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
