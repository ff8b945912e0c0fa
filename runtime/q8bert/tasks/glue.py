"""The table of tasks: the ten data sets of GLUE and what is predicted of them.

The file layout is the one of GLUE's zip files (Wang et al. 2018, "GLUE"); label ids and names
are those of ``nyu-mll/glue`` on the hub, so that a model trained on either reads alike. A
user's own task is the same value, read from a file by :mod:`q8bert.tasks.task_file`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError
from q8bert.tasks.data_set import DataSet
from q8bert.tasks.head import Head
from q8bert.tasks.task import Task

__all__ = ["GLUE_TASKS", "glue_task"]


def _task(name: str, *columns: str, label: str, labels: tuple[str, ...], metrics: tuple[str, ...], **more: Any) -> Task:
    text, pair = (*columns, None)[:2]
    data = DataSet(
        name=name, text_column=str(text), text_pair_column=pair, label_column=label, metrics=metrics, **more
    )  # fmt: skip
    return Task(Head.of_labels(labels), data)


_MNLI_LABELS = ("entailment", "neutral", "contradiction")
_RTE_LABELS = ("entailment", "not_entailment")
_BINARY_CODES = ("0", "1")

_TASKS = (
    _task(
        "CoLA", "sentence", label="label", labels=("unacceptable", "acceptable"), metrics=("matthews",),
        label_codes=_BINARY_CODES, headerless_columns=("source", "label", "mark", "sentence"), hub_name="cola",
    ),
    _task(
        "SST-2", "sentence", label="label", labels=("negative", "positive"), metrics=("accuracy",),
        label_codes=_BINARY_CODES, hub_name="sst2",
    ),
    _task(
        "MRPC", "#1 String", "#2 String", label="Quality", labels=("not_equivalent", "equivalent"),
        metrics=("f1", "accuracy"), label_codes=_BINARY_CODES, hub_name="mrpc",
    ),
    _task(
        "STS-B", "sentence1", "sentence2", label="score", labels=(), metrics=("pearson", "spearman"), hub_name="stsb",
    ),
    _task(
        "QQP", "question1", "question2", label="is_duplicate", labels=("not_duplicate", "duplicate"),
        metrics=("f1", "accuracy"), label_codes=_BINARY_CODES, hub_name="qqp",
    ),
    _task(
        "MNLI", "sentence1", "sentence2", label="gold_label", labels=_MNLI_LABELS, metrics=("accuracy",),
        hub_name="mnli",
        files={
            "dev": "dev_matched.tsv", "dev_mismatched": "dev_mismatched.tsv",
            "test": "test_matched.tsv", "test_mismatched": "test_mismatched.tsv",
        },
    ),
    _task("QNLI", "question", "sentence", label="label", labels=_RTE_LABELS, metrics=("accuracy",), hub_name="qnli"),
    _task("RTE", "sentence1", "sentence2", label="label", labels=_RTE_LABELS, metrics=("accuracy",), hub_name="rte"),
    _task(
        "WNLI", "sentence1", "sentence2", label="label", labels=("not_entailment", "entailment"),
        metrics=("accuracy",), label_codes=_BINARY_CODES, hub_name="wnli",
    ),
    _task(
        "AX", "sentence1", "sentence2", label="label", labels=_MNLI_LABELS, metrics=("matthews",),
        files={"dev": "diagnostic.tsv", "test": "diagnostic.tsv"}, hub_name="ax", has_training_data=False,
    ),
)  # fmt: skip

GLUE_TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _TASKS})


@checked
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
