"""The command ``evaluate``: score a bundle on labelled rows."""

from typing import Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import exit_codes, progress_bar
from q8bert.runtime.commands.options import (
    AsJson,
    BatchSize,
    Bfloat16,
    BundleArgument,
    DataFile,
    Engine,
    FileFormat,
    Graph,
    OptionalDataDir,
    Providers,
    Schema,
    SkipMalformed,
    SplitName,
    Threads,
    parse_providers,
    ready,
    say_left_out,
)
from q8bert.runtime.engines.engine import ONNX_RUNTIME
from q8bert.runtime.predict.graph_choice import AUTO
from q8bert.tasks.task_file import choose_task

__all__ = ["evaluate_command"]


def evaluate_command(
    bundle: BundleArgument,
    data_dir: OptionalDataDir = None,
    data_file: DataFile = None,
    split: SplitName = "dev",
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Another GLUE task with the same labels, e.g. QNLI for a bundle of RTE."),
    ] = None,
    format: FileFormat = None,
    schema: Schema = None,
    skip_malformed: SkipMalformed = False,
    engine: Engine = ONNX_RUNTIME,
    provider: Providers = None,
    graph: Graph = AUTO,
    threads: Threads = 0,
    bfloat16: Bfloat16 = False,
    batch_size: BatchSize = 32,
    json: AsJson = False,
) -> None:
    """Score a bundle on labelled rows."""
    with exit_codes():
        speaker = ready(engine, as_json=json, scoring=True)
        from q8bert.runtime.gate.evaluation import evaluate  # noqa: PLC0415 - onnxruntime loads slowly

        with progress_bar(speaker, "evaluating") as show:
            report = evaluate(
                bundle,
                data_dir,
                data_file=data_file,
                split=split,
                task=choose_task(task, None) if task else None,
                engine=engine,
                providers=parse_providers(provider),
                graph=graph,
                threads=threads,
                bfloat16=bfloat16,
                batch_size=batch_size,
                format=format,
                schema=schema,
                skip_malformed=skip_malformed,
                show_progress=show,
            )
        for note in report.notes:
            speaker.say(f"note: {note}")
        say_left_out(speaker, report.skipped, report.n_truncated)
        title = f"{report.task} {report.split}, {report.n_rows} rows, {report.kernels}"
        table = Table("metric", "points", title=escape(title))
        for name, value in report.metrics.items():
            table.add_row(name, f"{100 * value:.2f}")
        speaker.say(report.precision_note)
        speaker.result(report, lambda console: console.print(table))
