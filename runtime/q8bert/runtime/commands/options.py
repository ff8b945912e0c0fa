"""Options that several commands share, and what they do alike."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from q8bert.console.command import Speaker
from q8bert.machine.builds import require
from q8bert.runtime.engines.choice import require_engine
from q8bert.runtime.engines.engine import ENGINES, EngineName
from q8bert.runtime.engines.providers.names import Provider, parse_provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.predict.graph_choice import GRAPHS
from q8bert.spec.checked import fitted
from q8bert.tasks.data_set import FORMATS

__all__ = [
    "HARDWARE", "OUTPUT", "ROWS", "AsJson", "BatchSize", "Bfloat16", "BundleArgument", "DataFile", "Engine",
    "FileFormat", "Graph", "OptionalDataDir", "Providers", "RefuseLong", "Schema", "SkipMalformed", "SplitName",
    "Threads", "parse_providers", "ready", "say_left_out",
]  # fmt: skip

BundleArgument = Annotated[Path, typer.Argument(help="Folder of the bundle, as `q8bert export` wrote it.")]
ROWS, HARDWARE, OUTPUT = "Rows", "Hardware", "Output"

OptionalDataDir = Annotated[
    Optional[str],  # noqa: UP045 - Typer reads the union at run time
    typer.Option("--data-dir", help="The task's own folder, e.g. GLUE/STS-B, or hub:nyu-mll/glue."),
]
DataFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="File of labelled rows, instead of a split of --data-dir."),
]
Schema = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="JSON schema of a TFRecord file, which its records are held to.", rich_help_panel=ROWS),
]
SplitName = Annotated[str, typer.Option(help="Split to score: dev, dev_mismatched (MNLI), …")]
Engine = Annotated[str, typer.Option(help=f"What runs the model: {' or '.join(ENGINES)}.", rich_help_panel=HARDWARE)]
Bfloat16 = Annotated[bool, typer.Option("--bfloat16", help="OpenVINO: floats in bfloat16.", rich_help_panel=HARDWARE)]
Providers = Annotated[
    Optional[list[str]],  # noqa: UP045 - Typer reads the union at run time
    typer.Option(
        "--provider",
        help="ONNX Runtime's execution provider by full name, with options as NAME:key=value,key=value; repeat for an "
        "order. Default CPUExecutionProvider.",
        rich_help_panel=HARDWARE,
    ),
]
Graph = Annotated[
    str,
    typer.Option(
        help=f"Form of the model: {', '.join(GRAPHS)}; auto: what suits the first provider.", rich_help_panel=HARDWARE
    ),
]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; 0: the cores that this process may use.", rich_help_panel=HARDWARE)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows a batch.", rich_help_panel=HARDWARE)]
FileFormat = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help=f"How the file is written: {', '.join(FORMATS)}. Default: by its ending.", rich_help_panel=ROWS),
]
SkipMalformed = Annotated[
    bool,
    typer.Option(
        "--skip-malformed",
        help="Leave malformed rows out, list and count them, instead of stopping.",
        rich_help_panel=ROWS,
    ),
]
RefuseLong = Annotated[
    bool,
    typer.Option(
        "--refuse-long",
        help="Stop at a row that is longer than the bundle's maximum length.",
        rich_help_panel=ROWS,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.", rich_help_panel=OUTPUT),
]


def ready(engine: str, *, as_json: bool, scoring: bool) -> Speaker:
    """Check that what a command needs is installed, and return who speaks for it.

    Args:
        engine: The engine that is asked for.
        as_json: See :class:`Speaker`.
        scoring: Whether it computes metrics.

    Returns:
        The speaker.
    """
    require_engine(fitted(EngineName, engine, "engine"))
    if scoring:
        require("scipy", "sklearn", extra="evaluate", purpose="scoring")
    return Speaker(as_json=as_json)


def parse_providers(given: list[str] | None) -> list[Provider]:
    """Return the execution providers that were named, or the CPU's where none was."""
    return [parse_provider(text) for text in given or (CPU_PROVIDER,)]


def say_left_out(speaker: Speaker, skipped: tuple[str, ...], n_truncated: int) -> None:
    """List the malformed rows that were left out, and count those that lost text.

    Args:
        speaker: Says it.
        skipped: One line a malformed row.
        n_truncated: Rows longer than the bundle's maximum length.
    """
    for row in skipped:
        speaker.say(f"skipped: {row}")
    if skipped:
        speaker.say(f"{len(skipped)} malformed rows left out")
    if n_truncated:
        speaker.say(f"truncated rows, longer than the bundle's maximum length: {n_truncated}")
