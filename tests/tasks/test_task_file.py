"""Tasks of one's own, from a file."""

from pathlib import Path

import pytest

from q8bert.spec.errors import ConfigError
from q8bert.tasks.data_set import DataSet
from q8bert.tasks.head import CLASSIFICATION, Head
from q8bert.tasks.task import Task
from q8bert.tasks.task_file import choose_task


def test_a_task_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y"]\n[files]\ntrain = "t.tsv"\n'
    )
    assert choose_task(None, path) == Task(
        Head(CLASSIFICATION, ("x", "y")),
        DataSet(name="t", text_column="a", label_column="l", metrics=("accuracy",), files={"train": "t.tsv"}),
    )
    path.write_text('name = "t"\ntext_column = "a"\nlabel_column = "l"\n')
    assert choose_task(None, path).data.metrics == ("pearson", "spearman")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors save it
    assert choose_task(None, path).data.text_column == "a"
    assert choose_task(None, str(path)) == choose_task(None, path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        choose_task(None, tmp_path)
    path.write_bytes('name = "ü"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"task\.toml is no text in UTF-8 \(byte 8\); save it as UTF-8"):
        choose_task(None, path)
    with pytest.raises(ConfigError, match="name must be a text or none, got 3"):
        choose_task(3, None)  # type: ignore[arg-type]


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
        ("a = " + "[" * 100_000, "not valid TOML"),
        ('name = 3\ntext_column = "a"\nlabel_column = "l"', "name must be a text, got 3"),
        ('name = "t"\ntext_column = ""\nlabel_column = "l"', "text_column is empty"),
        (
            'name = "t"\ntext_column = "a"\ntext_pair_column = "a"\nlabel_column = "l"',
            "text_pair_column 'a' is text_column too; leave it out for one text a row",
        ),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nformat = "xml"',
            "format must be one of tsv, quoted-tsv, csv, jsonl, parquet, tfrecord, mindrecord, got 'xml'",
        ),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nheaderless_columns = ["b", "l"]',
            r"headerless_columns must name a once, got \['b', 'l'\]",
        ),
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
