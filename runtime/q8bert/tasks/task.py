"""A task: a head and the data set that it is trained on, and the JSON object that both stand in.

The object is flat, so that a task file reads simply. It stands in ``run.json`` and in a bundle's manifest.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from q8bert.spec.decode import decode
from q8bert.spec.errors import ConfigError
from q8bert.tasks.data_set import REGRESSION_METRICS, DataSet
from q8bert.tasks.head import Head

__all__ = ["Task", "task_from_json"]


@dataclass(frozen=True)
class Task:
    """What is predicted, and from which rows it is learned.

    Attributes:
        head: What the outputs mean; all that a model needs when it serves single texts or pairs.
        data: Where the rows stand, how they are written, and by what they are scored.
    """

    head: Head
    data: DataSet

    @property
    def name(self) -> str:
        """Name as users write it, for example ``STS-B``."""
        return self.data.name

    def label_id(self, cell: str) -> int | None:
        """Return the id of a label as a file writes it (its code or its name), or None if unknown."""
        for values in (self.data.label_codes, self.head.labels):
            if cell in values:
                return values.index(cell)
        return None

    def to_json(self) -> dict[str, object]:
        """Return the task as a JSON object."""
        values = {**asdict(self.data), "labels": self.head.labels}
        if self.data.format is None:
            del values["format"]  # earlier releases do not know it
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def faults(self) -> list[str]:
        """Return what is wrong with the definition, in words; empty when nothing is."""
        head, data = self.head, self.data
        faults = [*head.faults(), *data.faults()]
        if data.label_codes and len(data.label_codes) != len(head.labels):
            faults.append(f"label_codes has {len(data.label_codes)} entries for {len(head.labels)} labels")
        for code, label in zip(data.label_codes, head.labels, strict=False):
            if code in head.labels and code != label:
                faults.append(f"label_codes: {code!r} stands for {label!r}, but is the name of another label")
        for metric in data.metrics:
            if (metric in REGRESSION_METRICS) != head.is_regression:
                kind = "regression" if head.is_regression else "classification"
                faults.append(f"metric {metric} does not fit a {kind} task")
        if "f1" in data.metrics and len(head.labels) != 2:
            faults.append("metric f1 needs exactly two labels; the second one counts as positive")
        return faults


def task_from_json(content: Mapping[str, object], *, source: str) -> Task:
    """Build a task from the JSON object that :meth:`Task.to_json` gave.

    Args:
        content: The object.
        source: Where it came from, for messages.

    Returns:
        The task.

    Raises:
        ConfigError: If keys are missing, unknown or of the wrong kind, or the definition contradicts itself.
    """
    try:
        flat = decode(_FlatTask, content)
    except ConfigError as error:
        raise ConfigError([f"{source}: {fault}" for fault in error.faults]) from error
    data = DataSet(**{field.name: getattr(flat, field.name) for field in fields(DataSet)})
    task = Task(Head.of_labels(flat.labels), data)
    if faults := task.faults():
        raise ConfigError([f"{source}: {fault}" for fault in faults])
    return task


@dataclass(frozen=True, kw_only=True)
class _FlatTask(DataSet):
    """What the JSON object holds."""

    labels: tuple[str, ...] = ()
