"""Options that the commands share which quantize without training; what training has too means the same there."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from q8bert.spec.errors import ConfigError
from q8bert.tasks.data_set import FORMATS
from q8bert.tasks.task import Task
from q8bert.tasks.task_file import choose_task
from q8bert.training.options import flat_fields
from q8bert.training.quantization.config import QuantizationConfig

__all__ = [
    "HARDWARE", "MODEL", "OUTPUT", "QUANTIZATION", "ROWS", "AsJson", "BatchSize", "CalibrationRows", "DataDir",
    "FileFormat", "Granularity", "MaxLength", "ModelArgument", "RangePercentile", "Ranges", "Revision", "Seed",
    "SkipMalformed", "Smoothing", "Symmetric", "TableGranularity", "Targets", "TaskFile", "TaskName", "Threads",
    "ZeroPoints", "help_of", "optional_task",
]  # fmt: skip

ROWS, MODEL, QUANTIZATION, HARDWARE, OUTPUT = "Rows", "Model", "Quantization", "Hardware", "Output"


def help_of(name: str) -> str:
    """Return what an option of quantization means, as ``q8bert train --help`` says it."""
    return next(known.help for _, field, known in flat_fields(QuantizationConfig) if field.name == name)


def optional_task(name: str | None, task_file: Path | None) -> Task | None:
    """Return the task that a command was given, None where it was given none.

    Args:
        name: GLUE name, or None.
        task_file: TOML description, or None.

    Returns:
        The task.

    Raises:
        ConfigError: If both are given, or what is given does not exist.
    """
    if name is not None and task_file is not None:
        raise ConfigError(["give either --task with a GLUE name or --task-file with a description of your own"])
    return None if name is None and task_file is None else choose_task(name, task_file)


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RUN",
        help="Folder or hub id of a fine-tuned sequence classifier, or folder of a --no-quantize run.",
    ),
]
DataDir = Annotated[
    Optional[str],  # noqa: UP045 - Typer reads the union at run time
    typer.Option(
        help="The task's own folder, e.g. GLUE/STS-B, for rows that no file is given for. Default: the run's.",
        rich_help_panel=ROWS,
    ),
]
TaskName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="GLUE task that names columns and labels.", rich_help_panel=ROWS),
]
TaskFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="TOML description of a task of your own. Without a task, columns are text, text_pair and label, and "
        "labels those of the model's id2label.",
        rich_help_panel=ROWS,
    ),
]
FileFormat = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help=f"How files are written: {', '.join(FORMATS)}. Default: by their ending.", rich_help_panel=ROWS),
]
SkipMalformed = Annotated[
    bool,
    typer.Option(
        "--skip-malformed", help="Leave malformed rows out, list and count them, instead of stopping.",
        rich_help_panel=ROWS,
    ),
]  # fmt: skip
CalibrationRows = Annotated[
    int, typer.Option(min=1, help="Rows that ranges are observed on, at most.", rich_help_panel=ROWS)
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draw of rows.", rich_help_panel=ROWS)]
Revision = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Branch, tag or commit of a model of the hub; its main branch if not given.", rich_help_panel=MODEL
    ),
]
MaxLength = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=8, help="Longest row in tokens. Default: the run's, or the longest that model and tokenizer take.",
        rich_help_panel=MODEL,
    ),
]  # fmt: skip
Granularity = Annotated[str, typer.Option(help=help_of("granularity"), rich_help_panel=QUANTIZATION)]
TableGranularity = Annotated[str, typer.Option(help=help_of("table_granularity"), rich_help_panel=QUANTIZATION)]
Ranges = Annotated[
    str,
    typer.Option(
        help="Activation ranges: mean (of the largest values of groups of rows) or percentile (of all values).",
        rich_help_panel=QUANTIZATION,
    ),
]
RangePercentile = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help=f"{help_of('range_percentile')} Default: 99.99.", rich_help_panel=QUANTIZATION),
]
Smoothing = Annotated[
    bool, typer.Option("--smoothing/--no-smoothing", help=help_of("smoothing"), rich_help_panel=QUANTIZATION)
]
ZeroPoints = Annotated[
    bool, typer.Option("--zero-points/--no-zero-points", help=help_of("zero_points"), rich_help_panel=QUANTIZATION)
]
Symmetric = Annotated[
    bool,
    typer.Option(
        "--symmetric",
        help="Write zero points as additions and scales of tables as products, for runtimes that want zero point 0 "
        "(TensorRT). The same model, somewhat slower.",
        rich_help_panel=QUANTIZATION,
    ),
]
Targets = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--target",
        help="Another form of the model that the bundle has too; repeat for both. cuda: products of integers for ONNX "
        "Runtime's CUDA provider; float16: the same weights in half precision, activations not rounded.",
        rich_help_panel=QUANTIZATION,
    ),
]
Threads = Annotated[
    int,
    typer.Option(min=0, help="CPU threads. 0: those of the cores that the process may use.", rich_help_panel=HARDWARE),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows a batch.", rich_help_panel=HARDWARE)]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.", rich_help_panel=OUTPUT),
]
