"""The command ``predict``: predict every row of a file."""

from pathlib import Path
from typing import Annotated

import typer

from q8bert.console.command import exit_codes, line, progress_bar
from q8bert.runtime.commands.options import (
    AsJson,
    BatchSize,
    Bfloat16,
    BundleArgument,
    Engine,
    FileFormat,
    Graph,
    Providers,
    RefuseLong,
    Schema,
    SkipMalformed,
    Threads,
    parse_providers,
    ready,
    say_left_out,
)
from q8bert.runtime.engines.engine import ONNX_RUNTIME
from q8bert.runtime.predict.graph_choice import AUTO

__all__ = ["predict_command"]


def predict_command(
    bundle: BundleArgument,
    input: Annotated[
        Path,
        typer.Option(
            help="A table with the task's columns, labelled or not; JSON lines or Parquet with these or with text and "
            "text_pair; or token ids (TFRecord, MindRecord)."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="File of JSON lines to write, one object a row in input order, with the row's number as index."
        ),
    ],
    format: FileFormat = None,
    schema: Schema = None,
    skip_malformed: SkipMalformed = False,
    refuse_long: RefuseLong = False,
    engine: Engine = ONNX_RUNTIME,
    provider: Providers = None,
    graph: Graph = AUTO,
    threads: Threads = 0,
    bfloat16: Bfloat16 = False,
    batch_size: BatchSize = 32,
    json: AsJson = False,
) -> None:
    """Predict every row of a file."""
    with exit_codes():
        speaker = ready(engine, as_json=json, scoring=False)
        from q8bert.runtime.predict.files import predict_file  # noqa: PLC0415 - onnxruntime loads slowly

        with progress_bar(speaker, "predicting") as show:
            report = predict_file(
                bundle,
                input,
                output,
                engine=engine,
                providers=parse_providers(provider),
                graph=graph,
                threads=threads,
                bfloat16=bfloat16,
                batch_size=batch_size,
                format=format,
                schema=schema,
                skip_malformed=skip_malformed,
                on_long="refuse" if refuse_long else "truncate",
                show_progress=show,
            )
        say_left_out(speaker, report.skipped, report.n_truncated)
        speaker.result(report, lambda console: line(console, f"{report.n_rows} rows → {report.output}"))
