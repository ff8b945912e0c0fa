"""What a quantized model loses: on which rows, how much, and where."""

from collections.abc import Callable
from pathlib import Path

import onnx

from q8bert.data.readers import read_file
from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.one_shot.report import Limits
from q8bert.export.post_training.given import Given
from q8bert.export.proofs.float_comparison import FloatComparison, compare_logits, logits_of
from q8bert.export.sensitivity.measurement import BATCH_SIZE, Yardstick, layer_parts
from q8bert.export.sensitivity.proposal import Proposal, propose
from q8bert.export.sensitivity.simulation import PartlyQuantized, simulate
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.session import Session
from q8bert.spec.errors import ConfigError
from q8bert.tasks.metrics import refuse_undefined

__all__ = ["compare_with_float", "evaluation_rows", "suggest_layers"]

_SENSITIVITY_ROWS = 64


def evaluation_rows(
    given: Given,
    eval_data: Path | None,
    split: str,
    report: Callable[[str], None],
    *,
    format: str | None,  # noqa: A002
) -> tuple[EncodedRows, str]:
    """Read the rows that both models are compared on.

    Args:
        given: Model and rows.
        eval_data: File of labelled rows, if one was named.
        split: Name of the split of the data folder, if there is one.
        report: Called with a sentence where there are no labels, and of every malformed row that is left out.
        format: How the file is written; None for by its ending.

    Returns:
        The rows, and what they are, in a word; without labels those that were held out.

    Raises:
        InputError: If they cannot be read, or their labels say nothing.
    """
    task = given.model.task
    if eval_data is not None:
        rows = read_file(task, eval_data, labelled=True, format=format, skip_malformed=given.skip_malformed)
        split = "evaluation"
    elif given.splits is not None:
        rows = given.splits.read(task, split)
    else:
        report("note: without labels no score can be measured; --eval-data takes labelled rows")
        return given.held_out, "held-out"
    for row in rows.skipped:
        report(f"skipped: {row}")
    refuse_undefined(task, rows.labels(), source=rows.source)
    return given.model.encode(rows, labelled=True), split


def compare_with_float(
    graph: onnx.ModelProto,
    model: ModelToExport,
    rows: EncodedRows,
    *,
    split: str,
    batch_size: int,
    threads: int,
    show_progress: Callable[[int, int], None],
) -> FloatComparison:
    """Run an exported graph on ONNX Runtime and the float model in torch on the same rows.

    Args:
        graph: The exported graph.
        model: What it was made of.
        rows: Labelled or not.
        split: What they are, in a word.
        batch_size: Rows a batch.
        threads: CPU threads of ONNX Runtime.
        show_progress: Called with rows done and rows in all.

    Returns:
        The comparison.

    Raises:
        ConfigError: If the float model scores zero or less, of which no relative loss can be formed.
    """
    session, total = Session(graph.SerializeToString(), options=RuntimeOptions.batch(threads=threads)), 2 * len(rows)
    logits = logits_of(
        session.run, rows, n_outputs=model.task.head.n_outputs, batch_size=batch_size,
        show_progress=lambda done, _: show_progress(done, total),
    )  # fmt: skip
    floats = simulate(
        model, PartlyQuantized(frozenset(), frozenset()), rows, batch_size=batch_size,
        show_progress=lambda done, n_rows: show_progress(n_rows + done, total),
    )  # fmt: skip
    found = compare_logits(model.task, logits, floats, rows, split=split)
    if found.main_metric is not None and found.relative_loss is None:
        raise ConfigError([
            f"the float model's {found.main_metric} is {found.float_metrics[found.main_metric]:.4f} on {len(rows)} "
            f"{split} rows; a relative loss needs one above zero. Look whether task and labels are those of the model"
        ])  # fmt: skip
    return found


def suggest_layers(
    model: ModelToExport,
    held_out: EncodedRows,
    limits: Limits,
    *,
    show_progress: Callable[[int, int], None],
) -> Proposal | None:
    """Find layers that a model had better keep in float: the least that halve the error.

    Where the error of the logits has a limit below that, they bring it there.

    Args:
        model: With its grids.
        held_out: Rows that it was not calibrated with, and that nothing is scored on.
        limits: What the model may lose.
        show_progress: Called with models run and models in all, as far as that can be told.

    Returns:
        The layers; None where none suffice.
    """
    rows = held_out.select(held_out.spread(_SENSITIVITY_ROWS))
    total, n_done = len(model.weights.quantized) + 2, 0

    def show() -> None:
        nonlocal n_done
        n_done += 1
        show_progress(min(n_done, total), total)

    yardstick = Yardstick(model, rows, batch_size=BATCH_SIZE, show=show)
    wanted = yardstick.change(PartlyQuantized.whole(model)).relative_error / 2
    if limits.max_logit_error is not None:
        wanted = min(wanted, limits.max_logit_error)
    parts = layer_parts(yardstick, alone=False)
    return propose(yardstick, parts, lambda change: change.relative_error <= wanted)
