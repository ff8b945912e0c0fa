"""The command ``triton``: write bundles as a model repository of NVIDIA Triton."""

import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from q8bert.console.command import Speaker, exit_codes, line
from q8bert.runtime.commands.options import HARDWARE, OUTPUT, ROWS, AsJson
from q8bert.runtime.triton.options import BACKENDS, CPU, DEVICES, ONNX_RUNTIME_BACKEND, TritonOptions

__all__ = ["triton_command"]

BATCHES, CLUSTER = "Batches and queues", "KServe"


def triton_command(
    bundles: Annotated[
        list[str],
        typer.Argument(help="Folders of bundles, or NAME=FOLDER; a model is called as its folder otherwise."),
    ],
    output_dir: Annotated[
        Path,
        typer.Option(
            help="The repository; one that is there gets new models, or new versions of its own.",
            rich_help_panel=OUTPUT,
        ),
    ],
    version: Annotated[
        Optional[int],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(help="Version of every model that is written. Default: the next one.", rich_help_panel=OUTPUT),
    ] = None,
    replace_config: Annotated[
        bool,
        typer.Option(
            "--replace-config",
            help="Let the options of this command change the configuration of models that are there.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            help=f"What runs the models: {' or '.join(BACKENDS)}, which is this runtime in Triton's Python backend.",
            rich_help_panel=HARDWARE,
        ),
    ] = ONNX_RUNTIME_BACKEND,
    device: Annotated[
        str, typer.Option(help=f"Where models run: {' or '.join(DEVICES)}.", rich_help_panel=HARDWARE)
    ] = CPU,
    instances: Annotated[
        int, typer.Option(min=1, help="Copies of each model; of each on every GPU.", rich_help_panel=HARDWARE)
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads a copy.", rich_help_panel=HARDWARE)] = 1,
    tokenizers: Annotated[int, typer.Option(min=1, help="Copies of each tokenizer.", rich_help_panel=HARDWARE)] = 1,
    max_batch_size: Annotated[
        int, typer.Option(min=1, help="Most rows of a request, and of a batch.", rich_help_panel=BATCHES)
    ] = 32,
    max_delay_us: Annotated[
        int,
        typer.Option(
            min=0,
            help="Microseconds that a request waits for others while a copy is idle.",
            rich_help_panel=BATCHES,
        ),
    ] = 0,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Most requests that wait; others get status 503.", rich_help_panel=BATCHES)
    ] = 1024,
    timeout_ms: Annotated[
        int,
        typer.Option(min=1, help="Longest wait in a queue; status 503 then.", rich_help_panel=BATCHES),
    ] = 30_000,
    max_characters: Annotated[
        int, typer.Option(min=1, help="Most characters of a row.", rich_help_panel=ROWS)
    ] = 100_000,
    refuse_long: Annotated[
        bool,
        typer.Option(
            "--refuse-long",
            help="Refuse rows longer than the bundle's maximum length, instead of cutting them.",
            rich_help_panel=ROWS,
        ),
    ] = False,
    keep: Annotated[
        int, typer.Option(min=2, help="Versions of each model that stay loaded.", rich_help_panel=OUTPUT)
    ] = 2,
    storage_uri: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Where KServe will find the repository.", rich_help_panel=CLUSTER),
    ] = None,
    image: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Image of Triton with q8bert installed.", rich_help_panel=CLUSTER),
    ] = None,
    json: AsJson = False,
) -> None:
    """Write bundles as a model repository of NVIDIA Triton, and a KServe service beside them."""
    with exit_codes():
        from q8bert.runtime.triton.kserve import KServe  # noqa: PLC0415 - a list of commands needs none of it
        from q8bert.runtime.triton.repository import write_repository  # noqa: PLC0415

        speaker = Speaker(as_json=json)
        report = write_repository(
            bundles,
            output_dir,
            options=TritonOptions(
                backend=backend,
                device=device,
                instances=instances,
                tokenizers=tokenizers,
                threads=threads,
                max_batch_size=max_batch_size,
                max_delay_us=max_delay_us,
                max_queue=max_queue,
                timeout_ms=timeout_ms,
                on_long="refuse" if refuse_long else "truncate",
                max_characters=max_characters,
                keep=keep,
            ),
            version=version,
            replace_config=replace_config,
            kserve=KServe(storage_uri=storage_uri, image=image),
        )

        def render(console: Console) -> None:
            for model in report.models:
                outputs = ", ".join(model.outputs)
                line(console, f"{model.name}, version {model.version}: {', '.join(model.inputs)} → {outputs}")
            line(console, f"repository: {report.repository}")
            line(console, f"KServe: {report.service}")

        speaker.result(report, render)
        words = ["tritonserver", "--model-repository", str(report.repository), "--disable-auto-complete-config"]
        speaker.say(f"next: {shlex.join(words)}")
