"""The table of tasks."""

import json

import pytest

from q8bert.spec.errors import ConfigError
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.tasks.task import task_from_json


def test_the_table_holds_the_ten_tasks_and_each_is_sound() -> None:
    assert list(GLUE_TASKS) == ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI", "AX"]
    for name, task in GLUE_TASKS.items():
        assert task.faults() == []
        assert task_from_json(json.loads(json.dumps(task.to_json())), source="x") == task
        assert glue_task(name.lower().replace("-", "")) is task
    assert [name for name, task in GLUE_TASKS.items() if task.head.is_regression] == ["STS-B"]
    with pytest.raises(ConfigError, match="unknown task 'SNLI'; GLUE has CoLA"):
        glue_task("SNLI")
