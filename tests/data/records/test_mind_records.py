"""MindRecord files as MindSpore's own writer writes them are read by its own reader, and held to the same rules."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q8bert.data.examples import Split
from q8bert.data.readers import read_file, read_split
from q8bert.spec.errors import InputError, MissingExtraError
from q8bert.tasks.glue import glue_task

HAS_MINDSPORE = importlib.util.find_spec("mindspore") is not None
needs_mindspore = pytest.mark.skipif(not HAS_MINDSPORE, reason="needs MindSpore, the extra mindrecord")


def write(path: Path, rows: Sequence[dict[str, Any]], *, label: str = "int32", **types: str) -> Path:
    from mindspore.mindrecord import FileWriter

    shapes = {name: {"type": "int32", "shape": [-1]} for name in ("input_ids", "input_mask", "segment_ids")}
    schema = shapes | {"label_ids": {"type": label, "shape": [-1]}}
    schema |= {name: {"type": kind, "shape": [-1]} for name, kind in types.items()}
    writer = FileWriter(str(path), 1, overwrite=True)
    writer.add_schema(schema, "rows")
    writer.write_raw_data(
        [{name: np.array(values, dtype=schema[name]["type"]) for name, values in row.items()} for row in rows]
    )
    writer.commit()
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {
        "input_ids": [2, 5, 3, 6, 3, 0, 0, 0],
        "input_mask": [1, 1, 1, 1, 1, 0, 0, 0],
        "segment_ids": [0, 0, 0, 1, 1, 0, 0, 0],
        "label_ids": [1],
    } | changes


def read(path: Path, task: str = "MRPC", **options: Any) -> Split:
    return read_file(glue_task(task), path, **({"labelled": True} | options))


@needs_mindspore
def test_a_file_of_mindspore_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "train.mindrecord", [row(), row(label_ids=[0])])
    split = read(path)
    assert [example.input_ids.tolist() for example in split.tokens()] == [[2, 5, 3, 6, 3]] * 2
    assert [example.token_type_ids.tolist() for example in split.tokens()] == [[0, 0, 0, 1, 1]] * 2
    assert (split.labels(), split.row_numbers()) == ([1, 0], [0, 1])
    assert read_split(glue_task("MRPC"), tmp_path, "train").labels() == [1, 0]


@needs_mindspore
def test_scores_and_other_types_of_whole_numbers_are_read(tmp_path: Path) -> None:
    types = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), "int64")
    path = write(tmp_path / "train.mindrecord", [row(label_ids=[3.8]), row(label_ids=[0.25])], label="float32", **types)
    assert read(path, "STS-B").labels() == [3.8, 0.25]


@needs_mindspore
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_mask": [1, 1, 0, 1, 1, 0, 0, 0]}, "column input_mask: a hole at place 2"),
        ({"segment_ids": [0] * 7}, "column segment_ids: 7 values, but input_ids has 8"),
        ({"label_ids": [2]}, "column label_ids: expected 0 to 1"),
    ],
)
def test_what_no_row_has_is_refused_with_file_record_and_column(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "train.mindrecord", [row(), row(**changes), row()])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, record 2, ")
    assert message in str(caught.value)
    split = read(path, skip_malformed=True)
    assert [example.record for example in split.tokens()] == [1, 3]


@needs_mindspore
def test_a_file_without_its_index_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.mindrecord", [row()])
    moved = tmp_path / "moved.mindrecord"
    moved.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"lacks its index moved\.mindrecord\.db"):
        read(moved)
    content, index = path.read_bytes(), path.with_name("train.mindrecord.db").read_bytes()
    for damaged, damaged_index in ((content[:1000], index), (bytes(len(content)), index), (content, b"x" * 100)):
        path.chmod(0o600)
        path.write_bytes(damaged)
        path.with_name("train.mindrecord.db").write_bytes(damaged_index)
        with pytest.raises(InputError, match="after record 0: MindSpore cannot read it"):
            read(path)


@needs_mindspore
def test_it_is_recognized_where_it_is_read_as_something_else(tmp_path: Path) -> None:
    write(tmp_path / "rows", [row()])
    with pytest.raises(InputError, match="is a MindRecord file; read it with --format mindrecord"):
        read(tmp_path / "rows", format="tsv")
    with pytest.raises(InputError, match=r"record 1: the checksum of its length does not fit it\. Is it a TFRecord"):
        read(tmp_path / "rows", format="tfrecord")
    assert read(tmp_path / "rows", format="mindrecord").labels() == [1]


@pytest.mark.skipif(HAS_MINDSPORE, reason="MindSpore is installed here")
def test_without_mindspore_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.mindrecord").write_bytes(b"x")
    with pytest.raises(
        MissingExtraError, match=r'mindspore, not installed here\. Run: pip install "q8bert\[mindrecord\]"'
    ):
        read(tmp_path / "train.mindrecord")
