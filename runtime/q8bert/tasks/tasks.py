"""The table of tasks: columns, labels, metrics and files of the ten GLUE data sets.

The file layout is the one of GLUE's zip files (Wang et al. 2018, "GLUE"); label ids and names
are those of ``nyu-mll/glue`` on the hub, so that a model trained on either reads alike. A
user's own task is the same dataclass, read from a file by :mod:`q8bert.tasks.task_file`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType

from q8bert.spec.errors import ConfigError

__all__ = ["GLUE_TASKS", "METRICS", "Task", "glue_task", "task_from_json"]

METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")
_REGRESSION_METRICS = ("pearson", "spearman")


@dataclass(frozen=True)
class Task:
    """One classification or regression data set.

    Attributes:
        name: Name as users write it, for example ``STS-B``.
        text_column: Column of the first (or only) text.
        text_pair_column: Column of the second text, or None.
        label_column: Column of the label or score.
        labels: Label names in id order; empty for regression.
        label_codes: How the files write those labels, in the same order; empty if they write the names.
        metrics: Names of the metrics, see :data:`METRICS`. The first picks the best checkpoint and is
            what the gate compares.
        files: File name of each split, where it is not ``<split>.tsv`` or ``<split>.jsonl``.
        headerless_columns: Column names for files that come without a header line.
        hub_name: Configuration name in ``nyu-mll/glue``, or empty.
        has_training_data: False for a diagnostic set that only evaluates.
    """

    name: str
    text_column: str
    text_pair_column: str | None
    label_column: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    label_codes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    headerless_columns: tuple[str, ...] = ()
    hub_name: str = ""
    has_training_data: bool = True

    @property
    def is_regression(self) -> bool:
        """Whether the target is a number instead of a label."""
        return not self.labels

    @property
    def n_outputs(self) -> int:
        """Width of the model's logits: number of labels, or 1 for regression."""
        return len(self.labels) or 1

    @property
    def main_metric(self) -> str:
        """The metric that picks the best checkpoint and that the gate compares."""
        return self.metrics[0]

    def label_id(self, cell: str) -> int | None:
        """Return the id of a label as a file writes it (its code or its name), or None if unknown."""
        for values in (self.label_codes, self.labels):
            if cell in values:
                return values.index(cell)
        return None

    def to_json(self) -> dict[str, object]:
        """Return the task as a JSON object."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }  # fmt: skip

    def faults(self) -> list[str]:
        """Return what is wrong with the definition, in words; empty when nothing is."""
        found = []
        if not self.name:
            found.append("name is empty")
        if len(self.labels) == 1 or len(set(self.labels)) != len(self.labels):
            found.append(
                f"labels must be two or more different names (or none, for regression), got {list(self.labels)}"
            )
        if self.label_codes and len(self.label_codes) != len(self.labels):
            found.append(f"label_codes has {len(self.label_codes)} entries for {len(self.labels)} labels")
        if len(set(self.label_codes)) != len(self.label_codes):
            found.append(f"label_codes must be different from one another, got {list(self.label_codes)}")
        for code, label in zip(self.label_codes, self.labels, strict=False):
            if code in self.labels and code != label:
                found.append(f"label_codes: {code!r} stands for {label!r}, but is the name of another label")
        if self.label_column in {self.text_column, self.text_pair_column}:
            found.append(f"label_column {self.label_column!r} is a text column too")
        if not self.metrics or not set(self.metrics) <= set(METRICS):
            found.append(f"metrics must be from {', '.join(METRICS)}, got {list(self.metrics)}")
        for metric in self.metrics:
            if (metric in _REGRESSION_METRICS) != self.is_regression:
                kind = "regression" if self.is_regression else "classification"
                found.append(f"metric {metric} does not fit a {kind} task")
        if "f1" in self.metrics and len(self.labels) != 2:
            found.append("metric f1 needs exactly two labels; the second one counts as positive")
        return found


_MNLI_LABELS = ("entailment", "neutral", "contradiction")

_TASKS = (
    Task(
        "CoLA", "sentence", None, "label", ("unacceptable", "acceptable"), ("matthews",),
        label_codes=("0", "1"), headerless_columns=("source", "label", "mark", "sentence"), hub_name="cola",
    ),
    Task("SST-2", "sentence", None, "label", ("negative", "positive"), ("accuracy",),
         label_codes=("0", "1"), hub_name="sst2"),
    Task("MRPC", "#1 String", "#2 String", "Quality", ("not_equivalent", "equivalent"), ("f1", "accuracy"),
         label_codes=("0", "1"), hub_name="mrpc"),
    Task("STS-B", "sentence1", "sentence2", "score", (), ("pearson", "spearman"), hub_name="stsb"),
    Task("QQP", "question1", "question2", "is_duplicate", ("not_duplicate", "duplicate"), ("f1", "accuracy"),
         label_codes=("0", "1"), hub_name="qqp"),
    Task(
        "MNLI", "sentence1", "sentence2", "gold_label", _MNLI_LABELS, ("accuracy",), hub_name="mnli",
        files={
            "dev": "dev_matched.tsv", "dev_mismatched": "dev_mismatched.tsv",
            "test": "test_matched.tsv", "test_mismatched": "test_mismatched.tsv",
        },
    ),
    Task("QNLI", "question", "sentence", "label", ("entailment", "not_entailment"), ("accuracy",), hub_name="qnli"),
    Task("RTE", "sentence1", "sentence2", "label", ("entailment", "not_entailment"), ("accuracy",), hub_name="rte"),
    Task("WNLI", "sentence1", "sentence2", "label", ("not_entailment", "entailment"), ("accuracy",),
         label_codes=("0", "1"), hub_name="wnli"),
    Task("AX", "sentence1", "sentence2", "label", _MNLI_LABELS, ("matthews",),
         files={"dev": "diagnostic.tsv", "test": "diagnostic.tsv"}, hub_name="ax", has_training_data=False),
)  # fmt: skip

GLUE_TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _TASKS})


def glue_task(name: str) -> Task:
    """Return a GLUE task by name, whatever the case, with or without the dash.

    Args:
        name: For example ``STS-B``, ``sts-b`` or ``stsb``.

    Returns:
        The task.

    Raises:
        ConfigError: If there is no such task.
    """
    wanted = name.lower().replace("-", "").replace("_", "")
    for task in _TASKS:
        if task.name.lower().replace("-", "") == wanted:
            return task
    raise ConfigError([
        f"unknown task {name!r}; GLUE has {', '.join(GLUE_TASKS)}. Describe a task of your own in a --task-file"
    ])  # fmt: skip


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
    known = Task.__dataclass_fields__
    strings = ("name", "text_column", "label_column")
    lists = ("labels", "label_codes", "metrics", "headerless_columns")
    faults = [f"unknown key {key!r}; known are {', '.join(known)}" for key in content if key not in known]
    faults += [f"{key} must be a text" for key in strings if not isinstance(content.get(key), str)]
    faults += [
        f"{key} must be a list of texts, got {content[key]!r}"
        for key in lists
        if key in content and not _is_list_of_texts(content[key])
    ]
    pair = content.get("text_pair_column")
    if pair is not None and not isinstance(pair, str):
        faults.append(f"text_pair_column must be a text, got {pair!r}")
    files = content.get("files", {})
    if not isinstance(files, Mapping) or not all(isinstance(value, str) for value in files.values()):
        faults.append(f"files must map splits to file names, got {files!r}")
    if faults:
        raise ConfigError([f"{source}: {fault}" for fault in faults])
    values = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in content.items()}
    values = {"text_pair_column": None, "labels": (), "metrics": ()} | values
    task = Task(**values)  # type: ignore[arg-type]
    if faults := task.faults():
        raise ConfigError([f"{source}: {fault}" for fault in faults])
    return task


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
