"""Parquet gives the same rows as a table, and names row and column of what it cannot give."""

import csv
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from q8bert.data.column_names import column_names
from q8bert.data.examples import Example
from q8bert.data.formats.parquet import parquet_rows
from q8bert.data.readers import read_file, read_split
from q8bert.spec.errors import InputError
from q8bert.tasks.glue import glue_task

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")

SST2 = glue_task("SST-2")


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def test_a_table_and_its_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    rows = [('Good, "really"', "b\nc", "5.000"), ("tab\tbed", "é日🤖", "3.909"), (" ", "x", "0.1")]
    with (tmp_path / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "score"), *rows])
    first, second, scores = zip(*rows, strict=True)
    numbers = [float(score) for score in scores]
    task = glue_task("STS-B")
    expected = read_file(task, tmp_path / "train.csv", labelled=True).examples
    assert len(expected) == 3
    for kind in (pyarrow.string(), pyarrow.float32(), pyarrow.float64(), pyarrow.decimal128(10, 4)):
        label = pyarrow.array(scores) if kind == pyarrow.string() else pyarrow.array(numbers).cast(kind, safe=False)
        path = write(tmp_path / "train.parquet", {"sentence1": first, "sentence2": second, "score": label})
        assert read_file(task, path, labelled=True).examples == expected, kind


@pytest.mark.parametrize(
    "names", [("sentence", "label"), ("text", "label")],
)  # fmt: skip
@pytest.mark.parametrize(
    "labels",
    [
        ["positive", "negative"], ["1", "0"], [1, 0], pyarrow.array([1, 0], pyarrow.uint8()),
        pyarrow.array(["positive", "negative"]).dictionary_encode(),
    ],
    ids=["names", "codes", "ids", "uint8", "dictionary"],
)  # fmt: skip
def test_columns_go_by_the_tasks_names_or_the_general_ones(names: tuple[str, str], labels: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "dev.parquet", dict(zip(names, [["a", "b"], labels], strict=True)) | {"idx": [0, 1]})
    assert read_file(SST2, path, labelled=True).examples == (Example("a", None, 1), Example("b", None, 0))
    assert column_names(path) == (*names, "idx")
    assert read_split(SST2, tmp_path, "dev").examples == read_file(SST2, path, labelled=True).examples


def test_columns_go_by_the_hubs_names(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.parquet", {"premise": ["p"], "hypothesis": ["h"], "label": [2], "idx": [0]})
    expected = (Example("p", "h", 2),)
    assert read_file(glue_task("MNLI"), path, labelled=True).examples == expected
    assert glue_task("MNLI").head.labels[2] == "contradiction"


def test_texts_of_every_type_of_text_are_read(tmp_path: Path) -> None:
    texts = ["a", "b", "a"]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        path = write(tmp_path / "x.parquet", {"sentence": pyarrow.array(texts).cast(kind)})
        assert [example.text for example in read_file(SST2, path, labelled=False).examples] == texts  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": ["a", None, "b"], "label": [1, 0, 1]}, "row 2, column sentence: a text is missing, got None"),
        ({"sentence": ["a", "b", "c"], "label": [1, None, 1]}, "row 2, column label: unknown label"),
        ({"sentence": ["a", "b", "c"], "label": [1, 7, 1]}, "row 2, column label: unknown label"),
        ({"sentence": ["a", "b", "c"], "label": [1.0, 0.5, 1.0]}, "row 1, column label: unknown label"),
        ({"sentence": ["a", "b\0", "c"], "label": [1, 0, 1]}, "row 2, column sentence: a NUL character"),
        (
            {"sentence": pyarrow.array([b"a", b"\xffb", b"c"]).view(pyarrow.string()), "label": [1, 0, 1]},
            "row 2, column sentence: not UTF-8 at byte 0 of the cell",
        ),
    ],
)
def test_a_malformed_row_is_named_and_can_be_left_out(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", columns)
    with pytest.raises(InputError) as caught:
        read_file(SST2, path, labelled=True)
    assert str(caught.value).startswith(f"{path}, {message}")
    if "row 2" in message:
        split = read_file(SST2, path, labelled=True, skip_malformed=True)
        assert [len(split.examples), len(split.skipped), split.skipped[0].unit] == [2, 1, "row"]
        assert split.row_numbers() == [0, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": [1, 2], "label": [1, 0]}, "column sentence is of type int64, where texts are needed"),
        ({"sentence": [b"a"], "label": [1]}, "column sentence is of type binary, where texts are needed"),
        ({"sentence": [["a"]], "label": [1]}, "column sentence is of type list"),
        (
            {"sentence": ["a"], "label": [{"x": 1}]},
            "column label is of type struct.*, where labels or numbers are needed",
        ),
        ({"sentence": ["a"]}, "lacks column label; it has sentence"),
        ({"comment": ["a"], "label": [1]}, "lacks column sentence; it has comment, label"),
        ({"sentence": ["a"], "text": ["a"], "label": [1]}, "both sentence and text are there, and they mean the same"),
        ({"sentence": pyarrow.array([], pyarrow.string()), "label": pyarrow.array([], pyarrow.int64())}, "has no rows"),
    ],
)
def test_columns_of_another_type_or_name_are_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", columns)
    with pytest.raises(InputError, match=message):
        read_file(SST2, path, labelled=True)


def test_a_file_that_is_cut_damaged_or_none_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.parquet", {"sentence": ["some words"] * 2000, "label": [1] * 2000}, use_dictionary=False
    )
    content = path.read_bytes()
    damaged = content[:200] + bytes(200) + content[400:]
    for other, message in [
        (content[: len(content) // 2], "is not readable as Parquet"), (damaged, "is not readable as Parquet"),
        (b"", "is empty"), (b"sentence\tlabel\na\t1\n", "is not readable as Parquet"),
    ]:  # fmt: skip
        path.write_bytes(other)
        with pytest.raises(InputError, match=message):
            read_file(SST2, path, labelled=True)
    table = tmp_path / "train.tsv"
    table.write_bytes(content)
    with pytest.raises(InputError, match="is a Parquet file; read it with --format parquet"):
        read_file(SST2, table, labelled=True)
    assert len(read_file(SST2, table, labelled=True, format="parquet").examples) == 2000


def test_checksums_of_pages_are_verified_where_the_writer_made_them(tmp_path: Path) -> None:
    columns = {"sentence": ["some words here"] * 2000, "label": [1] * 2000}
    path = write(
        tmp_path / "train.parquet", columns, write_page_checksum=True, use_dictionary=False, compression="none"
    )
    content = bytearray(path.read_bytes())
    content[content.find(b"words", 3000)] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not readable as Parquet: could not verify page integrity"):
        read_file(SST2, path, labelled=True)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    n_rows, path = 40_000, tmp_path / "large.parquet"
    write(path, {"sentence": [f"{number} {'word ' * 40}" for number in range(n_rows)]}, use_dictionary=False)
    before = pyarrow.total_allocated_bytes()
    peak = 0
    tracemalloc.start()
    try:
        for number, _ in parquet_rows(path, task=SST2, labelled=False):
            if number % 1000 == 0:
                peak = max(peak, pyarrow.total_allocated_bytes() - before)
        assert number == n_rows
        assert tracemalloc.get_traced_memory()[1] < 3_000_000, "of Python's objects"
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000, "of Arrow's memory; the column has 8 MB"
