"""A float model and rows → what INT8 costs at every activation and layer, and which layers to keep in float."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from q8bert.data.readers import Format
from q8bert.export.post_training.calibration import calibrated
from q8bert.export.post_training.given import Asked, read_given
from q8bert.export.post_training.options import ONE_SHOT_RANGES, one_shot_options
from q8bert.export.post_training.rows import CALIBRATION_ROWS
from q8bert.export.sensitivity.measurement import BATCH_SIZE, Change, measure
from q8bert.export.sensitivity.proposal import propose
from q8bert.export.sensitivity.report import SensitivityReport, Wanted
from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import at_least, one_of
from q8bert.tasks.task import Task
from q8bert.training.engines.threads import torch_threads
from q8bert.training.quantization.config import GRANULARITIES, TABLE_GRANULARITIES

__all__ = ["MEASURED_ROWS", "examine_sensitivity"]

MEASURED_ROWS = 128


@checked
def examine_sensitivity(
    model: Path | str,
    *,
    data: Path | str | None = None,
    data_dir: Path | str | None = None,
    task: Task | None = None,
    revision: str | None = None,
    max_length: Annotated[int, at_least(8)] | None = None,
    granularity: Annotated[str, one_of(GRANULARITIES)] = GRANULARITIES[0],
    table_granularity: Annotated[str, one_of(TABLE_GRANULARITIES)] = TABLE_GRANULARITIES[0],
    ranges: Annotated[str, one_of(ONE_SHOT_RANGES)] = ONE_SHOT_RANGES[0],
    range_percentile: float | None = None,
    smoothing: bool = True,
    zero_points: bool = True,
    calibration_rows: Annotated[int, at_least(1)] = CALIBRATION_ROWS,
    rows: Annotated[int, at_least(2)] = MEASURED_ROWS,
    max_logit_error: Annotated[float, at_least(0)] | None = None,
    max_relative_loss: float | None = None,
    format: Format = None,  # noqa: A002 - as on the command line
    skip_malformed: bool = False,
    batch_size: Annotated[int, at_least(1)] = BATCH_SIZE,
    threads: Annotated[int, at_least(0)] = 0,
    seed: Annotated[int, at_least(0)] = 11,
    report: Callable[[str], None] = lambda _: None,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> SensitivityReport:
    """Quantize every activation and every layer alone, and all but it, and compare with the float model.

    Rows are drawn from one source in two parts, those to calibrate with and those to measure on. Without a file it is
    the training split: what is chosen by this report is not chosen on dev.

    Args:
        model: Folder or hub id of a fine-tuned model of transformers, or folder of a float run.
        data: File of rows, with labels or without; by default the training split of ``data_dir``.
        data_dir: The task's own folder; by default a run's own.
        task: Columns and labels; by default a run's own, or those of the model.
        revision: Branch, tag or commit of the hub.
        max_length: Longest row in tokens; by default the run's, or the longest that model and tokenizer take.
        granularity: As in :func:`q8bert.export.quantize`, and so the next three.
        table_granularity: Of embedding tables.
        ranges: How ranges are found.
        range_percentile: Percentile that they reach to.
        smoothing: Whether outlier channels are smoothed.
        zero_points: Whether activations that lie to one side have zero points.
        calibration_rows: Rows to calibrate with, at most.
        rows: Rows to measure on, at most.
        max_logit_error: Relative error of the logits that is wanted; layers are proposed to be kept in float for it.
        max_relative_loss: Relative loss of the main metric that is wanted, which needs labels.
        format: How files are written; see :func:`q8bert.data.readers.read_file`.
        skip_malformed: Leave malformed rows out instead of stopping.
        batch_size: Rows a batch.
        threads: CPU threads; 0 for those of the cores that this process may use.
        seed: Of the draw of rows.
        report: Called with a sentence at every stage.
        show_progress: Called with models run and models in all.

    Returns:
        The report.

    Raises:
        ConfigError: If an argument is of another type or arguments do not go together.
        InputError: If rows cannot be read, or are too few.
        ModelError: If the model cannot be found, has no trained head for the task, or cannot be quantized.
    """
    options = one_shot_options(
        granularity=granularity, table_granularity=table_granularity, ranges=ranges, range_percentile=range_percentile,
        smoothing=smoothing, zero_points=zero_points,
    )  # fmt: skip
    asked = Asked(
        model=str(model),
        rows=None if data is None else Path(data),
        rows_option="--data",
        data_dir=None if data_dir is None else str(data_dir),
        task=task,
        revision=revision,
        max_length=max_length,
        format=format,
        skip_malformed=skip_malformed,
        seed=seed,
    )
    given = read_given(asked, n_calibration=calibration_rows, n_held_out=rows, labelled=True, report=report)
    wanted = Wanted(max_logit_error=max_logit_error, max_relative_loss=max_relative_loss)
    has_labels = given.held_out.labels is not None
    if max_relative_loss is not None and not has_labels:
        raise ConfigError([
            f"a relative loss is wanted, but the rows of {given.source} have no labels; give labelled rows, or "
            "--max-logit-error"
        ])  # fmt: skip
    with torch_threads(threads):
        report(f"observing the activations of {len(given.calibration)} rows")
        quantized = calibrated(
            given.model,
            given.calibration,
            options=options,
            seed=seed,
        )
        report(f"measuring on {len(given.held_out)} other rows")
        yardstick, measured = measure(quantized, given.held_out, batch_size=batch_size, show_progress=show_progress)
        proposal = None
        if wanted != Wanted(max_logit_error=None, max_relative_loss=None):
            report("looking for layers to keep in float")
            proposal = propose(yardstick, measured.parts, _reaches(wanted, measured.float_score))
    return SensitivityReport(
        source=str(model),
        rows_source=given.source,
        n_calibration_rows=len(given.calibration),
        n_rows=len(given.held_out),
        main_metric=given.model.task.data.main_metric if has_labels else None,
        measured=measured,
        wanted=wanted,
        proposal=proposal,
        skipped=given.skipped,
    )


def _reaches(wanted: Wanted, float_score: float | None) -> Callable[[Change], bool]:
    loss = wanted.max_relative_loss
    if loss is not None and not (float_score or 0.0) > 0:
        raise ConfigError([f"the float model's score is {float_score}; a relative loss needs one above zero"])

    def reached(change: Change) -> bool:
        if wanted.max_logit_error is not None and not change.relative_error <= wanted.max_logit_error:
            return False
        if loss is None or change.score is None or float_score is None:
            return True
        return (float_score - change.score) / float_score <= loss

    return reached
