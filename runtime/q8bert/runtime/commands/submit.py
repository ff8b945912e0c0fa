"""The command ``submit``: a file for GLUE's leaderboard."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import exit_codes, line, progress_bar
from q8bert.runtime.commands.options import (
    OUTPUT,
    AsJson,
    BatchSize,
    Bfloat16,
    Engine,
    Graph,
    Providers,
    Threads,
    parse_providers,
    ready,
)
from q8bert.runtime.engines.engine import ONNX_RUNTIME
from q8bert.runtime.predict.graph_choice import AUTO

__all__ = ["submit_command"]


def submit_command(
    bundles: Annotated[
        list[Path], typer.Argument(help="Folders of bundles, one of each task; that of MNLI answers AX too.")
    ],
    data_dir: Annotated[
        str, typer.Option(help="Folder with a folder for each task, as GLUE's zip files make it, or hub:nyu-mll/glue.")
    ],
    output_file: Annotated[Path, typer.Option(help="The zip file to write.", rich_help_panel=OUTPUT)],
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Fill tables of tasks without a bundle or test file with one and the same answer; the scores of these "
            "tasks then say nothing.",
        ),
    ] = False,
    engine: Engine = ONNX_RUNTIME,
    provider: Providers = None,
    graph: Graph = AUTO,
    threads: Threads = 0,
    bfloat16: Bfloat16 = False,
    batch_size: BatchSize = 32,
    json: AsJson = False,
) -> None:
    """Predict GLUE's test rows and write the zip that its leaderboard takes."""
    with exit_codes():
        speaker = ready(engine, as_json=json, scoring=False)
        from q8bert.runtime.predict.submission import submit  # noqa: PLC0415 - onnxruntime loads slowly

        with progress_bar(speaker, "predicting") as show:
            report = submit(
                bundles,
                data_dir,
                output_file,
                allow_missing=allow_missing,
                engine=engine,
                providers=parse_providers(provider),
                graph=graph,
                threads=threads,
                bfloat16=bfloat16,
                batch_size=batch_size,
                show_progress=show,
            )
        table = Table("table", "rows", "truncated", "answered by", title="GLUE submission")
        for file in report.files:
            answered_by = file.bundle or f"nothing: {file.constant} in every row ({file.lacked})"
            table.add_row(file.name, str(file.n_rows), str(file.n_truncated), escape(answered_by))
        if not report.is_complete:
            lacking = ", ".join(file.name for file in report.files if file.lacked)
            speaker.say(f"warning: {lacking} hold no predictions; neither their scores nor the mean over all count")

        def render(console: Console) -> None:
            console.print(table)
            line(console, f"→ {report.output}")

        speaker.result(report, render)
