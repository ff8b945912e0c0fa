"""A float model as people have it: a run of ``q8bert train --no-quantize``, or a fine-tuned model of transformers."""

from collections.abc import Sequence
from pathlib import Path

from q8bert.export.model_to_export import ModelToExport, Origin
from q8bert.export.trained_run import TrainedRun, load_trained_run
from q8bert.spec.errors import ConfigError, ModelError
from q8bert.spec.files import read_json
from q8bert.tasks.data_set import DataSet
from q8bert.tasks.head import Head
from q8bert.tasks.task import Task
from q8bert.training.models.model_folder import find_model
from q8bert.training.models.own_head import read_own_head
from q8bert.training.models.source import load_source_model, position_limit
from q8bert.training.objectives.target_scale import UNSCALED
from q8bert.training.quantization.config import GRANULARITIES, TABLE_GRANULARITIES
from q8bert.training.quantization.weights import prepare_weights

__all__ = ["load_fine_tuned_model", "load_float_run"]

_ENDLESS = 2**31
_SHORTEST = 8  # as in training: special tokens, and room for text


def load_float_run(path: Path, *, max_length: int | None = None) -> TrainedRun:
    """Load the best checkpoint of a float run.

    Args:
        path: Folder of the run.
        max_length: Longest row in tokens; None for the run's own.

    Returns:
        The run.

    Raises:
        ConfigError: If it is a quantized run.
        CheckpointError: If it has no whole checkpoint.
        ModelError: If the model cannot take rows of ``max_length``.
    """
    trained = load_trained_run(path, max_length=max_length)
    if trained.config.quantization.quantize:
        raise ConfigError([
            f"{path} is a run with quantization awareness, which has its ranges already. Export it with "
            "`q8bert export`, or give a --no-quantize run"
        ])  # fmt: skip
    return trained


def load_fine_tuned_model(
    name: str, *, task: Task | None, columns: Sequence[str], max_length: int | None, revision: str | None
) -> ModelToExport:
    """Load a fine-tuned sequence classifier, its head included.

    Args:
        name: A folder in Hugging Face's layout, or a hub id.
        task: What its outputs are called and which columns rows have; None takes labels from the model's ``id2label``.
        columns: Those of the rows at hand: without a task, ``text_pair`` among them says that rows are pairs.
        max_length: Longest row in tokens; None for the longest that the model and its tokenizer take.
        revision: Branch, tag or commit of the hub.

    Returns:
        The float model.

    Raises:
        ModelError: If it cannot be found or quantized, or has no trained head for the task.
    """
    folder = find_model(name, revision=revision)
    own = read_own_head(folder.path)
    task = task or _task_of_model(name, own, columns)
    head = task.head
    source = load_source_model(
        name,
        n_outputs=head.n_outputs,
        labels=head.labels,
        max_length=max_length or _SHORTEST,
        dropout=None,
        revision=folder.revision,
    )
    if source.drawn:
        named = f"{task.name} has the labels {', '.join(head.labels) or 'of a score'}; " if own != head else ""
        raise ModelError(
            f"{name} is not fine-tuned for this: {named}its head {source.report.layer} is {source.report.head}, and "
            f"{', '.join(sorted(source.drawn)[:3])} would be drawn at random. Give a fine-tuned sequence classifier"
            f"{' and the task that it was tuned for' if named else ''}, or train it with `q8bert train`"
        )
    return ModelToExport(
        source=source,
        task=task,
        max_length=max_length or min(position_limit(source.model), _length_of_tokenizer(folder.path)),
        obey_special_tokens=False,  # the rows of a service are its users': text is text
        target_scale=source.head_units or UNSCALED,
        sites=(),
        amax=None,
        weights=prepare_weights(source.model, {}, ()),
        granularity=GRANULARITIES[0],
        table_granularity=TABLE_GRANULARITIES[0],
        float_layers=(),
        origin=Origin(model={"source": name, "revision": folder.revision}, quantization={}, metrics={}, data={}),
    )


def _task_of_model(name: str, head: Head, columns: Sequence[str]) -> Task:
    data = DataSet(
        name=Path(name).resolve().name if Path(name).exists() else name,
        text_column="text",
        text_pair_column="text_pair" if "text_pair" in columns else None,
        label_column="label",
        metrics=("pearson", "spearman") if head.is_regression else ("accuracy",),
    )
    return Task(head, data)


def _length_of_tokenizer(folder: Path) -> int:
    """Return the longest row that the tokenizer's files speak of; as good as endless where they do not."""
    try:
        length = read_json(folder / "tokenizer_config.json").get("model_max_length")
    except (OSError, ValueError):  # there need be none; a damaged one was refused before
        length = None
    return int(length) if isinstance(length, int | float) and length >= _SHORTEST else _ENDLESS
