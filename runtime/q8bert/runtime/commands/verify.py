"""The command ``verify``: the gate on size and accuracy."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import GATE_FAILED, exit_codes, line, progress_bar
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

__all__ = ["verify_command"]


def verify_command(
    bundle: BundleArgument,
    reference: Annotated[Path, typer.Option(help="Folder of the float twin's bundle.")],
    data_dir: OptionalDataDir = None,
    data_file: DataFile = None,
    split: SplitName = "dev",
    min_size_ratio: Annotated[float, typer.Option(min=0.0, help="Smallest size ratio that passes.")] = 3.9,
    max_relative_loss: Annotated[float, typer.Option(help="Largest relative loss that passes; 0.01 is 1 %.")] = 0.01,
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
    """Check that a bundle is four times smaller than its float twin and as good; exits 1 if not."""
    with exit_codes():
        speaker = ready(engine, as_json=json, scoring=True)
        from q8bert.runtime.gate.verification import VerificationReport, verify  # noqa: PLC0415 - onnxruntime loads slowly

        with progress_bar(speaker, "evaluating") as show:
            report = verify(
                bundle,
                reference,
                data_dir,
                data_file=data_file,
                split=split,
                min_size_ratio=min_size_ratio,
                max_relative_loss=max_relative_loss,
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
        speaker.say(report.precision_note)

        def render(console: Console, report: VerificationReport = report) -> None:
            table = Table(
                "",
                "reference",
                "bundle",
                "change",
                "limit",
                title=escape(f"{report.task} {report.split}, {report.n_rows} rows, {report.kernels}"),
            )
            for name, value in report.metrics.items():
                base = report.reference_metrics[name]
                is_main = name == report.main_metric
                table.add_row(
                    name, f"{100 * base:.2f}", f"{100 * value:.2f}",
                    f"loss {report.relative_loss:.2%}" if is_main else f"{100 * (value - base):+.2f}",
                    f"≤ {report.max_relative_loss:.2%}" if is_main else "",
                )  # fmt: skip
            table.add_row("size", "", "", f"{report.size_ratio:.2f} × smaller", f"≥ {report.min_size_ratio:g} ×")
            console.print(table)
            line(console, "PASSED" if report.passed else "FAILED: " + "; ".join(report.failures))

        speaker.result(report, render)
        if not report.passed:
            raise typer.Exit(GATE_FAILED)
