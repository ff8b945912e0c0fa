"""The commands ``evaluate``, ``predict``, ``verify`` and ``doctor``: parse, call, print."""

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import GATE_FAILED, Speaker, exit_codes, line, progress_bar
from q8bert.console.panels import PanelCommand
from q8bert.machine.builds import require
from q8bert.runtime.engines.choice import require_engine
from q8bert.runtime.engines.engine import ENGINES, ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.provider_names import Provider, parse_provider
from q8bert.runtime.engines.provider_table import CPU_PROVIDER
from q8bert.spec.checked import fitted
from q8bert.tasks.data_set import FORMATS
from q8bert.tasks.task_file import choose_task

__all__ = ["register"]

BundleArgument = Annotated[Path, typer.Argument(help="Folder of the bundle, as `q8bert export` wrote it.")]
_ROWS, _HARDWARE, _OUTPUT = "Rows", "Hardware", "Output"

DataDir = Annotated[str, typer.Option(help="The task's own folder, e.g. GLUE/STS-B, or hub:nyu-mll/glue.")]
SplitName = Annotated[str, typer.Option(help="Split to score: dev, dev_mismatched (MNLI), …")]
Engine = Annotated[str, typer.Option(help=f"What runs the model: {' or '.join(ENGINES)}.", rich_help_panel=_HARDWARE)]
Bfloat16 = Annotated[bool, typer.Option("--bfloat16", help="OpenVINO: floats in bfloat16.", rich_help_panel=_HARDWARE)]
Providers = Annotated[
    Optional[list[str]],  # noqa: UP045 - Typer reads the union at run time
    typer.Option(
        "--provider",
        help="ONNX Runtime's execution provider by full name, with options as NAME:key=value,key=value; repeat for an "
        "order. Default CPUExecutionProvider.",
        rich_help_panel=_HARDWARE,
    ),
]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; 0: the cores that this process may use.", rich_help_panel=_HARDWARE)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows a batch.", rich_help_panel=_HARDWARE)]
FileFormat = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help=f"How the file is written: {', '.join(FORMATS)}. Default: by its ending.", rich_help_panel=_ROWS),
]
SkipMalformed = Annotated[
    bool,
    typer.Option(
        "--skip-malformed",
        help="Leave malformed rows out, list and count them, instead of stopping.",
        rich_help_panel=_ROWS,
    ),
]
RefuseLong = Annotated[
    bool,
    typer.Option(
        "--refuse-long",
        help="Stop at a row that is longer than the bundle's maximum length.",
        rich_help_panel=_ROWS,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.", rich_help_panel=_OUTPUT),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("evaluate", cls=PanelCommand)(evaluate_command)
    app.command("predict", cls=PanelCommand)(predict_command)
    app.command("verify", cls=PanelCommand, short_help="Check a bundle against its float twin.")(verify_command)
    app.command("doctor", short_help="Say what this environment can do and what it lacks.")(doctor_command)


def evaluate_command(
    bundle: BundleArgument,
    data_dir: DataDir,
    split: SplitName = "dev",
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Another GLUE task with the same labels, e.g. QNLI for a bundle of RTE."),
    ] = None,
    format: FileFormat = None,
    skip_malformed: SkipMalformed = False,
    engine: Engine = ONNX_RUNTIME,
    provider: Providers = None,
    threads: Threads = 0,
    bfloat16: Bfloat16 = False,
    batch_size: BatchSize = 32,
    json: AsJson = False,
) -> None:
    """Score a bundle on labelled rows."""
    with exit_codes():
        speaker = _ready(engine, as_json=json, scoring=True)
        from q8bert.runtime.gate.evaluation import evaluate  # noqa: PLC0415 - onnxruntime loads slowly

        with progress_bar(speaker, "evaluating") as show:
            report = evaluate(
                bundle,
                data_dir,
                split=split,
                task=choose_task(task, None) if task else None,
                engine=engine,
                providers=_providers(provider),
                threads=threads,
                bfloat16=bfloat16,
                batch_size=batch_size,
                format=format,
                skip_malformed=skip_malformed,
                show_progress=show,
            )
        _say_left_out(speaker, report.skipped, report.n_truncated)
        title = f"{report.task} {report.split}, {report.n_rows} rows, {report.kernels}"
        table = Table("metric", "points", title=escape(title))
        for name, value in report.metrics.items():
            table.add_row(name, f"{100 * value:.2f}")
        speaker.say(report.precision_note)
        speaker.result(report, lambda console: console.print(table))


def predict_command(
    bundle: BundleArgument,
    input: Annotated[
        Path,
        typer.Option(help="A table with the task's columns, labelled or not, or JSON lines with text and text_pair."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="File of JSON lines to write, one object a row in input order, with the row's number as index."
        ),
    ],
    format: FileFormat = None,
    skip_malformed: SkipMalformed = False,
    refuse_long: RefuseLong = False,
    engine: Engine = ONNX_RUNTIME,
    provider: Providers = None,
    threads: Threads = 0,
    bfloat16: Bfloat16 = False,
    batch_size: BatchSize = 32,
    json: AsJson = False,
) -> None:
    """Predict every row of a file."""
    with exit_codes():
        speaker = _ready(engine, as_json=json, scoring=False)
        from q8bert.runtime.predict.files import predict_file  # noqa: PLC0415 - onnxruntime loads slowly

        with progress_bar(speaker, "predicting") as show:
            report = predict_file(
                bundle,
                input,
                output,
                engine=engine,
                providers=_providers(provider),
                threads=threads,
                bfloat16=bfloat16,
                batch_size=batch_size,
                format=format,
                skip_malformed=skip_malformed,
                on_long="refuse" if refuse_long else "truncate",
                show_progress=show,
            )
        _say_left_out(speaker, report.skipped, report.n_truncated)
        speaker.result(report, lambda console: line(console, f"{report.n_rows} rows → {report.output}"))


def verify_command(
    bundle: BundleArgument,
    reference: Annotated[Path, typer.Option(help="Folder of the float twin's bundle.")],
    data_dir: DataDir,
    split: SplitName = "dev",
    min_size_ratio: Annotated[float, typer.Option(min=0.0, help="Smallest size ratio that passes.")] = 3.9,
    max_relative_loss: Annotated[float, typer.Option(help="Largest relative loss that passes; 0.01 is 1 %.")] = 0.01,
    format: FileFormat = None,
    skip_malformed: SkipMalformed = False,
    engine: Engine = ONNX_RUNTIME,
    provider: Providers = None,
    threads: Threads = 0,
    bfloat16: Bfloat16 = False,
    batch_size: BatchSize = 32,
    json: AsJson = False,
) -> None:
    """Check that a bundle is four times smaller than its float twin and as good; exits 1 if not."""
    with exit_codes():
        speaker = _ready(engine, as_json=json, scoring=True)
        from q8bert.runtime.gate.verification import VerificationReport, verify  # noqa: PLC0415 - onnxruntime loads slowly

        with progress_bar(speaker, "evaluating") as show:
            report = verify(
                bundle,
                reference,
                data_dir,
                split=split,
                min_size_ratio=min_size_ratio,
                max_relative_loss=max_relative_loss,
                engine=engine,
                providers=_providers(provider),
                threads=threads,
                bfloat16=bfloat16,
                batch_size=batch_size,
                format=format,
                skip_malformed=skip_malformed,
                show_progress=show,
            )
        _say_left_out(speaker, report.skipped, report.n_truncated)
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


def _ready(engine: str, *, as_json: bool, scoring: bool) -> Speaker:
    require_engine(fitted(EngineName, engine, "engine"))
    if scoring:
        require("scipy", "sklearn", extra="evaluate", purpose="scoring")
    return Speaker(as_json=as_json)


def _providers(given: list[str] | None) -> list[Provider]:
    return [parse_provider(text) for text in given or (CPU_PROVIDER,)]


def _say_left_out(speaker: Speaker, skipped: tuple[str, ...], n_truncated: int) -> None:
    for row in skipped:
        speaker.say(f"skipped: {row}")
    if skipped:
        speaker.say(f"{len(skipped)} malformed rows left out")
    if n_truncated:
        speaker.say(f"truncated rows, longer than the bundle's maximum length: {n_truncated}")
