"""The table of tasks, and tasks of one's own."""

import json
from pathlib import Path

import pytest

from q8bert.spec.errors import ConfigError
from q8bert.tasks.task_file import choose_task
from q8bert.tasks.tasks import GLUE_TASKS, Task, glue_task, task_from_json


def test_the_table_holds_the_ten_tasks_and_each_is_sound() -> None:
    assert list(GLUE_TASKS) == ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI", "AX"]
    for name, task in GLUE_TASKS.items():
        assert task.faults() == []
        assert task_from_json(json.loads(json.dumps(task.to_json())), source="x") == task
        assert glue_task(name.lower().replace("-", "")) is task
    assert [name for name, task in GLUE_TASKS.items() if task.is_regression] == ["STS-B"]
    with pytest.raises(ConfigError, match="unknown task 'SNLI'; GLUE has CoLA"):
        glue_task("SNLI")


def test_a_task_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y"]\n[files]\ntrain = "t.tsv"\n'
    )
    assert choose_task(None, path) == Task("t", "a", None, "l", ("x", "y"), ("accuracy",), files={"train": "t.tsv"})
    path.write_text('name = "t"\ntext_column = "a"\nlabel_column = "l"\n')
    assert choose_task(None, path).metrics == ("pearson", "spearman")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors save it
    assert choose_task(None, path).text_column == "a"
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        choose_task(None, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('name = "t"', "text_column must be a text"),
        ('name = "t"\ntext_column = "a"\nlabel_column = "l"\ncolour = 1', "unknown key 'colour'"),
        ('name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x"]', "two or more different names"),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y"]\nmetrics = ["pearson"]',
            "does not fit",
        ),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y", "z"]\nmetrics = ["f1"]',
            "exactly two",
        ),
        ("name = ", "not valid TOML"),
        ('name = "t"\ntext_column = "a"\nlabel_column = "a"', "label_column 'a' is a text column too"),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["0", "1"]\nlabel_codes = ["1", "0"]',
            "label_codes: '1' stands for '0', but is the name of another label",
        ),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y"]\nlabel_codes = ["1", "1"]',
            "label_codes must be different",
        ),
    ],
)
def test_faults_of_a_task_file_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "task.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        choose_task(None, path)
    assert "task.toml" in str(caught.value)


def test_a_command_needs_one_task() -> None:
    for name, path in ((None, None), ("RTE", Path("x.toml"))):
        with pytest.raises(ConfigError, match="give either --task"):
            choose_task(name, path)
