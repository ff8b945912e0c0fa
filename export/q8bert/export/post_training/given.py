"""What a command is given, model and rows → a float model, rows to calibrate it with, and others to measure it on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from q8bert.data.column_names import column_names
from q8bert.data.examples import Split
from q8bert.data.records.token_rows import IDS, LABEL
from q8bert.data.row_source import RowSource
from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.post_training.float_model import load_fine_tuned_model, load_float_run
from q8bert.export.post_training.rows import divide, read_rows
from q8bert.spec.errors import ConfigError, InputError
from q8bert.tasks.task import Task
from q8bert.training.models.tokenizer.vocabulary import notes_on_tokenizer
from q8bert.training.runs.identity.fingerprints import Fingerprint, fingerprint_of_rows
from q8bert.training.runs.identity.run_record import is_run

__all__ = ["Asked", "Given", "read_given"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caller names.

    Attributes:
        model: Folder of a float run, or folder or hub id of a fine-tuned model.
        rows: File of rows, labelled or not; None for the training split of ``data_dir`` or of the run.
        rows_option: What the command calls that file.
        data_dir: Folder of the task's files; None for that of the run.
        task: Names the columns of the rows and the labels; None for the run's, or for the model's own.
        revision: Branch, tag or commit of the hub.
        max_length: Longest row in tokens; None for the run's, or for the longest that the model takes.
        format: How files are written; None for what the run was told, or by their endings.
        skip_malformed: Whether malformed rows are left out.
        seed: Of the draw of rows.
    """

    model: str
    rows: Path | None
    rows_option: str
    data_dir: str | None
    task: Task | None
    revision: str | None
    max_length: int | None
    format: str | None
    skip_malformed: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Given:
    """Model and rows, read.

    Attributes:
        model: The float model.
        splits: Where the splits of the task are; None where that is not known.
        skip_malformed: Whether malformed rows are left out.
        source: Where the rows came from.
        calibration: Rows to calibrate with.
        fingerprint: Of these rows' texts.
        held_out: Other rows of the same source; labelled where the source is.
        skipped: Malformed rows that were left out, one line each.
    """

    model: ModelToExport
    splits: RowSource | None
    skip_malformed: bool
    source: str
    calibration: EncodedRows
    fingerprint: Fingerprint
    held_out: EncodedRows
    skipped: tuple[str, ...]


def read_given(
    asked: Asked, *, n_calibration: int, n_held_out: int, labelled: bool, report: Callable[[str], None]
) -> Given:
    """Load a float model, and read and divide its rows.

    Args:
        asked: What a caller names.
        n_calibration: Rows to calibrate with, at most.
        n_held_out: Rows to hold out, at most.
        labelled: Whether held-out rows keep their labels, where there are any.
        report: Called with what there is to know of model and rows.

    Returns:
        Model and rows.

    Raises:
        ConfigError: If what was named does not go together.
        InputError: If rows cannot be read, or are too few.
        ModelError: If the model cannot be found, has no trained head, or cannot be quantized.
    """
    model, splits, asked = _load(asked, report)
    columns = () if asked.rows is None else column_names(asked.rows, format=asked.format or model.task.data.format)
    if asked.rows is not None:
        labelled = labelled and bool({model.task.data.label_column, LABEL} & set(columns))
    try:
        split = read_rows(
            model.task, asked.rows, splits, labelled=labelled, format=asked.format,
            skip_malformed=asked.skip_malformed,
        )  # fmt: skip
    except InputError as error:
        if asked.task is None and "text" not in columns and not is_run(Path(asked.model)):
            raise InputError(f"{error} Columns of other names than text and text_pair need a --task-file") from error
        raise
    divided = divide(split, n_calibration=n_calibration, n_held_out=n_held_out, seed=asked.seed)
    has_labels = labelled and all(example.label is not None for example in divided.held_out.examples)
    given = Given(
        model=model,
        splits=splits,
        skip_malformed=asked.skip_malformed,
        source=split.source,
        calibration=model.encode(divided.calibration, labelled=False),
        fingerprint=fingerprint_of_rows(divided.calibration),
        held_out=model.encode(divided.held_out, labelled=has_labels),
        skipped=tuple(str(row) for row in split.skipped),
    )
    _report(given, split, report)
    return given


def _load(asked: Asked, report: Callable[[str], None]) -> tuple[ModelToExport, RowSource | None, Asked]:
    """Return the model, its splits, and what was asked with the run's own words where nothing else was said."""
    if is_run(Path(asked.model)):
        return _of_run(asked, report)
    if asked.rows is None and asked.data_dir is None:
        raise ConfigError([
            f"{asked.model} is no run, which would know its rows: give a file of some hundred rows as it will meet "
            f"them with {asked.rows_option}, or the task's folder with --data-dir and --task"
        ])  # fmt: skip
    if asked.data_dir is not None and asked.task is None:
        raise ConfigError(["--data-dir needs --task or --task-file, which say how its files are read"])
    if asked.rows is not None and not asked.rows.is_file():
        raise InputError(f"{asked.rows} does not exist or is not a file")
    columns = () if asked.rows is None else column_names(asked.rows, format=asked.format)
    if asked.task is None and {IDS, LABEL} <= set(columns):
        raise ConfigError([f"{asked.rows} holds token ids: --task or --task-file says whether rows are pairs of texts"])
    model = load_fine_tuned_model(
        asked.model, task=asked.task, columns=columns, max_length=asked.max_length, revision=asked.revision
    )
    splits = None
    if asked.data_dir is not None:
        splits = RowSource(data_dir=asked.data_dir, format=asked.format, skip_malformed=asked.skip_malformed)
    return model, splits, asked


def _of_run(asked: Asked, report: Callable[[str], None]) -> tuple[ModelToExport, RowSource | None, Asked]:
    conflicts = {"--task and --task-file": asked.task, "--revision": asked.revision}
    if faults := [f"{name}: {asked.model} is a run, which has its own" for name, it in conflicts.items() if it]:
        raise ConfigError(faults)
    trained = load_float_run(Path(asked.model), max_length=asked.max_length)
    asked = replace(asked, skip_malformed=asked.skip_malformed or trained.config.skip_malformed)
    splits = replace(trained.source(asked.data_dir), skip_malformed=asked.skip_malformed)
    if asked.data_dir is not None:
        splits = replace(splits, format=asked.format or splits.format)
    elif asked.rows is not None and not splits.is_there("dev"):
        report(f"note: the run's data {splits.place('dev')} is not here, so nothing is scored on its rows")
        return trained.model, None, asked
    return trained.model, splits, asked


def _report(given: Given, split: Split, report: Callable[[str], None]) -> None:
    model, calibration = given.model, given.calibration
    for line in model.source.report.lines():
        report(line)
    labels = model.task.head.labels
    if labels and labels == tuple(f"LABEL_{number}" for number in range(len(labels))):
        report(f"note: the model does not name its labels, so they are {', '.join(labels)}; a --task-file names them")
    n_rows = len(split.examples)
    report(
        f"{model.task.name}: {len(calibration)} rows to calibrate with and {len(given.held_out)} held out, of "
        f"{n_rows} in {given.source}"
    )
    for note in split.notes:
        report(f"note: {note}")
    for note in notes_on_tokenizer(model.source.tokenizer, calibration.encoded):
        report(f"note: {note}")
    if n_cut := len(calibration.encoded.truncated):
        report(f"note: {n_cut} of {len(calibration)} rows are longer than {model.max_length} tokens and are cut")
