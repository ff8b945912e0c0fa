"""TFRecord files as the real writers write them are read; every damage is named with file and record."""

import base64
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q8bert.data.examples import Split
from q8bert.data.readers import read_file, read_split
from q8bert.spec.errors import InputError
from q8bert.tasks.glue import glue_task
from q8bert.tasks.task import Task

pytest.importorskip("google_crc32c", reason="needs the extra tfrecord")

# three records of tf.io.TFRecordWriter of TensorFlow 2.21.0: input_ids [2, 5 + k, 3, 6, 3, 0, 0, 0], input_mask
# [1]·5 + [0]·3, segment_ids [0, 0, 0, 1, 1, 0, 0, 0], label_ids [3.8] as floats, is_real_example 1, 1, 0
TENSORFLOW_FILE = base64.b64decode(
    "iAAAAAAAAAD83uziCoUBChkKCWlucHV0X2lkcxIMGgoKCAIFAwYDAAAAChoKCmlucHV0X21hc2sSDBoKCggBAQEBAQAAAAoVCgls"
    "YWJlbF9pZHMSCBIGCgQzM3NAChgKD2lzX3JlYWxfZXhhbXBsZRIFGgMKAQEKGwoLc2VnbWVudF9pZHMSDBoKCggAAAABAQAAADGn"
    "PrCIAAAAAAAAAPze7OIKhQEKGQoJaW5wdXRfaWRzEgwaCgoIAgYDBgMAAAAKGgoKaW5wdXRfbWFzaxIMGgoKCAEBAQEBAAAAChUK"
    "CWxhYmVsX2lkcxIIEgYKBDMzc0AKGAoPaXNfcmVhbF9leGFtcGxlEgUaAwoBAQobCgtzZWdtZW50X2lkcxIMGgoKCAAAAAEBAAAA"
    "xAnYEIgAAAAAAAAA/N7s4gqFAQoZCglpbnB1dF9pZHMSDBoKCggCBwMGAwAAAAoaCgppbnB1dF9tYXNrEgwaCgoIAQEBAQEAAAAK"
    "FQoJbGFiZWxfaWRzEggSBgoEMzNzQAoYCg9pc19yZWFsX2V4YW1wbGUSBRoDCgEAChsKC3NlZ21lbnRfaWRzEgwaCgoIAAAAAQEA"
    "AADhPqBv"
)
N_BYTES = len(TENSORFLOW_FILE) // 3
Write = Callable[..., Path]


def row(**changes: Any) -> dict[str, Any]:
    columns = {
        "input_ids": [2, 5, 3, 6, 3, 0, 0, 0],
        "input_mask": [1, 1, 1, 1, 1, 0, 0, 0],
        "segment_ids": [0, 0, 0, 1, 1, 0, 0, 0],
        "label_ids": [1],
    } | changes
    return {name: values for name, values in columns.items() if values is not None}


def read(path: Path, task: str | Task = "MRPC", **options: Any) -> Split:
    given = glue_task(task) if isinstance(task, str) else task
    return read_file(given, path, **({"labelled": True} | options))


def test_a_file_of_tensorflow_is_read_and_rows_that_fill_a_batch_are_none(tmp_path: Path) -> None:
    path = tmp_path / "train.tf_record"
    path.write_bytes(TENSORFLOW_FILE)
    split = read(path, "STS-B")
    assert [example.input_ids.tolist() for example in split.tokens()] == [[2, 5, 3, 6, 3], [2, 6, 3, 6, 3]]
    assert [example.token_type_ids.tolist() for example in split.tokens()] == [[0, 0, 0, 1, 1]] * 2
    assert split.labels() == [3.8, 3.8], "the decimal that was written down, not float32's 3.7999999523"
    assert split.row_numbers() == [0, 1]
    assert split.notes == (f"{path}: 1 records with is_real_example 0, which only fill a batch, were left out",)


def test_tensorflow_itself_writes_what_is_read(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="needs TensorFlow")
    path, train = tmp_path / "dev.tfrecord", tensorflow.train
    with tensorflow.io.TFRecordWriter(str(path)) as writer:
        for columns in (row(), row(label_ids=[0])):
            features = {
                name: train.Feature(int64_list=train.Int64List(value=values)) for name, values in columns.items()
            }
            writer.write(train.Example(features=train.Features(feature=features)).SerializeToString())
    assert read(path).labels() == [1, 0]


def test_tensorboards_writer_writes_what_is_read(tmp_path: Path, write_tf_records: Write) -> None:
    path = write_tf_records(tmp_path / "dev.tfrecord", [row(), row(label_ids=[0], other=[b"x"], more=[0.5])])
    split = read(path)
    assert [example.input_ids.tolist() for example in split.tokens()] == [[2, 5, 3, 6, 3]] * 2
    assert split.labels() == [1, 0]
    assert [example.record for example in split.tokens()] == [1, 2]


def test_every_byte_of_a_file_counts(tmp_path: Path) -> None:
    path, rng = tmp_path / "train.tf_record", random.Random(0)
    for at in rng.sample(range(len(TENSORFLOW_FILE)), 150):
        damaged = bytearray(TENSORFLOW_FILE)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{path}, record {1 + at // N_BYTES}") as caught:
            read(path, "STS-B")
        assert "checksum" in str(caught.value)


@pytest.mark.parametrize("length", [1, 11, 12, N_BYTES - 1, N_BYTES + 5, 3 * N_BYTES - 4])
def test_a_file_that_was_cut_off_is_refused_with_the_record(length: int, tmp_path: Path) -> None:
    path = tmp_path / "train.tf_record"
    path.write_bytes(TENSORFLOW_FILE[:length])
    for skip in (False, True):
        with pytest.raises(InputError, match=f"record {1 + length // N_BYTES}: the file ends within the record"):
            read(path, "STS-B", skip_malformed=skip)


def test_a_record_whose_content_is_damaged_can_be_left_out(tmp_path: Path) -> None:
    path, damaged = tmp_path / "train.tf_record", bytearray(TENSORFLOW_FILE)
    damaged[40] ^= 1
    path.write_bytes(damaged)
    split = read(path, "STS-B", skip_malformed=True)
    assert [example.record for example in split.tokens()] == [2]
    assert [(fault.line, fault.unit) for fault in split.skipped] == [(1, "record")]
    assert "record 1, column -: the checksum of the record does not fit its content" in str(split.skipped[0])


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"input_mask": [1, 1, 0, 1, 1, 0, 0, 0]}, "column input_mask: a hole at place 2, with tokens behind it"),
    ({"input_mask": [0, 1, 1, 1, 1, 1, 0, 0]}, "padding before the tokens; rows are padded behind them"),
    ({"input_mask": [0] * 8}, "the row has no tokens"),
    ({"input_mask": [1, 1, 1, 1, 2, 0, 0, 0]}, "expected 0 and 1 alone"),
    ({"input_mask": [1, 1, 1, 0, 0, 0, 0, 0]}, "tokens under the mask's zeros"),
    ({"input_mask": [1] * 7}, "column input_mask: 7 values, but input_ids has 8"),
    ({"segment_ids": [0] * 9}, "column segment_ids: 9 values, but input_ids has 8"),
    (
        {"segment_ids": None},
        "column segment_ids: the column is missing; the record has input_ids, input_mask, label_ids",
    ),
    ({"input_ids": None}, "column input_ids: the column is missing"),
    ({"input_ids": [0.5] * 8}, "column input_ids: floats, where ids are whole numbers"),
    ({"input_ids": [b"a"]}, "column input_ids: bytes, where ids are whole numbers"),
    ({"input_ids": [-1, 5, 3, 6, 3, 0, 0, 0]}, "no possible id at place 0, got -1"),
    ({"input_ids": [2, 2**31, 3, 6, 3, 0, 0, 0]}, "no possible id at place 1, got 2147483648"),
    ({"label_ids": [2]}, "column label_ids: expected 0 to 1, for not_equivalent, equivalent, got 2"),
    ({"label_ids": [-1]}, "expected 0 to 1"),
    ({"label_ids": [1, 0]}, "2 values, where there is one label"),
    ({"label_ids": [1.0]}, "floats, where a label is written as a whole number"),
    ({"label_ids": None}, "column label_ids: the label is missing"),
    ({"is_real_example": [2]}, "column is_real_example: expected a single 0 or 1"),
    ({"is_real_example": [1.0]}, "column is_real_example: expected a single 0 or 1"),
    (
        {name: [*values, 0] for name, values in row().items() if name != "label_ids"},
        "9 values, but the records before it have 8",
    ),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_what_no_row_has_is_refused_with_file_record_and_column(
    changes: dict[str, Any], message: str, tmp_path: Path, write_tf_records: Write
) -> None:
    path = write_tf_records(tmp_path / "train.tfrecord", [row(), row(), row(**changes), row()])
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, record 3, column ")
    assert message in str(caught.value)
    assert "--skip-malformed" in str(caught.value)
    split = read(path, skip_malformed=True)
    assert [example.record for example in split.tokens()] == [1, 2, 4]
    assert split.row_numbers() == [0, 1, 3]
    assert len(split.skipped) == 1


@pytest.mark.parametrize("record", [b"", b"\x0a\x03abc", b"\xff" * 20, struct.pack("<8q", *range(8))])
def test_a_record_that_is_no_example_is_refused(record: bytes, tmp_path: Path, write_tf_records: Write) -> None:
    path = write_tf_records(tmp_path / "train.tfrecord", [row(), record])
    with pytest.raises(InputError, match=r"record 2, column -: the record (is no|has no)"):
        read(path)


def test_a_score_is_a_float_and_a_whole_number_has_lost_something(tmp_path: Path, write_tf_records: Write) -> None:
    path = write_tf_records(tmp_path / "train.tfrecord", [row(label_ids=[3])])
    with pytest.raises(InputError, match="record 1, column label_ids: integers, where a score is written as a float"):
        read(path, "STS-B")
    path = write_tf_records(tmp_path / "train.tfrecord", [row(label_ids=[float("nan")])])
    with pytest.raises(InputError, match="expected a finite number as score"):
        read(path, "STS-B")


@pytest.mark.parametrize("score", [0.0, 5.0, 3.909, 2.6, 0.1, 4.25, -1.5, 1e-3, 123.456])
def test_a_score_is_the_decimal_that_was_written_down(score: float, tmp_path: Path, write_tf_records: Write) -> None:
    path = write_tf_records(tmp_path / "train.tfrecord", [row(label_ids=[score])])
    assert read(path, "STS-B").labels() == [score]


def test_mnlis_labels_have_the_order_of_run_classifier(tmp_path: Path, write_tf_records: Write) -> None:
    path = write_tf_records(tmp_path / "train.tfrecord", [row(label_ids=[number]) for number in range(3)])
    task, split = glue_task("MNLI"), read(path, "MNLI")
    named = [task.head.labels[int(label)] for label in split.labels()]
    assert named == ["contradiction", "entailment", "neutral"]
    assert split.notes == (f"{path}: label_ids 0, 1, 2 are taken for contradiction, entailment, neutral",)


def test_rows_without_labels_are_read_where_none_are_wanted(tmp_path: Path, write_tf_records: Write) -> None:
    path = write_tf_records(tmp_path / "predict.tf_record", [row(label_ids=None), row(label_ids=[7])])
    assert [example.label for example in read(path, labelled=False).examples] == [None, None]


def test_rows_that_fill_every_place_are_counted(tmp_path: Path, write_tf_records: Write) -> None:
    full = row(input_ids=[2, 5, 5, 3, 6, 6, 6, 3], input_mask=[1] * 8, segment_ids=[0] * 4 + [1] * 4)
    path = write_tf_records(tmp_path / "train.tfrecord", [row(), full])
    assert read(path).notes[-1].startswith(f"{path}: 1 of 2 rows fill all 8 places")


def test_no_file_of_records_is_named_for_what_it_is(tmp_path: Path, write_tf_records: Write) -> None:
    for content, message in [
        (b"", "is empty"),
        (b"\x1f\x8b" + b"x" * 40, "is compressed with gzip; unpack it first"),
        (b"sentence\tlabel\nabc\t1\n", "record 1: the checksum of its length does not fit it. Is it a TFRecord file?"),
    ]:
        path = tmp_path / "train.tfrecord"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message.replace("?", r"\?")):
            read(path)
    path = write_tf_records(tmp_path / "train.tsv", [row()])
    with pytest.raises(InputError, match="holds records of token ids; read it with --format tfrecord"):
        read(path)
    assert read(path, format="tfrecord").labels() == [1]
    empty = write_tf_records(tmp_path / "dev.tfrecord", [row(is_real_example=[0])])
    with pytest.raises(InputError, match="has no rows"):
        read(empty)


def test_a_folder_has_files_by_split_and_by_run_classifiers_names(tmp_path: Path, write_tf_records: Write) -> None:
    write_tf_records(tmp_path / "train.tf_record", [row()] * 3)
    write_tf_records(tmp_path / "eval.tf_record", [row()] * 2)
    task = glue_task("MRPC")
    assert [len(read_split(task, tmp_path, name).examples) for name in ("train", "dev")] == [3, 2]


def write_schema(path: Path, **changes: Any) -> Path:
    ids = {"type": "int64", "rank": 1, "shape": [8]}
    columns = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), ids)
    content = {"datasetType": "TF", "columns": columns | {"label_ids": {"type": "int64", "rank": 1, "shape": [1]}}}
    path.write_text(json.dumps({name: value for name, value in (content | changes).items() if value is not None}))
    return path


def test_records_are_held_to_a_schema(tmp_path: Path, write_tf_records: Write) -> None:
    path, schema = write_tf_records(tmp_path / "train.tfrecord", [row()] * 4), write_schema(tmp_path / "schema.json")
    assert read(path, schema=schema).labels() == [1] * 4
    for column, message in [
        (
            {"type": "int64", "rank": 1, "shape": [9]},
            r"record 1, column input_ids: 8 values, where the schema says \[9\]",
        ),
        ({"type": "float32", "rank": 1, "shape": [8]}, "column input_ids: integers, where the schema says float32"),
        ({"type": "int32", "rank": 0}, r"column input_ids: 8 values, where the schema says \[1\]"),
    ]:
        columns = json.loads(schema.read_text())["columns"] | {"input_ids": column}
        with pytest.raises(InputError, match=message):
            read(path, schema=write_schema(tmp_path / "other.json", columns=columns))
    as_list = [{"name": name, **column} for name, column in json.loads(schema.read_text())["columns"].items()]
    as_list.append({"name": "is_real_example", "type": "int64", "rank": 1, "shape": [1]})
    with pytest.raises(InputError, match="record 1, column is_real_example: the column is missing, which the schema"):
        read(path, schema=write_schema(tmp_path / "list.json", columns=as_list))
    free = {name: column | {"shape": [-1]} for name, column in json.loads(schema.read_text())["columns"].items()}
    assert read(path, schema=write_schema(tmp_path / "free.json", columns=free)).labels() == [1] * 4


def test_a_schema_limits_the_rows_and_it_is_said(tmp_path: Path, write_tf_records: Write) -> None:
    path = write_tf_records(tmp_path / "train.tfrecord", [row()] * 4)
    split = read(path, schema=(schema := write_schema(tmp_path / "schema.json", numRows=3)))
    assert len(split.examples) == 3
    assert split.notes[0] == f"{path}: numRows of {schema} is 3: the records after that were not read"
    for n_rows in (4, 100):
        split = read(path, schema=write_schema(tmp_path / "schema.json", numRows=n_rows))
        assert (len(split.examples), len(split.notes)) == (4, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasetType": "MindRecord"}, "datasetType must be"),
        ({"datasetType": None}, "datasetType must be"),
        ({"numRows": 0}, "numRows must be"),
        ({"columns": {}}, "column input_ids is missing; column input_mask is missing"),
        ({"columns": None}, "columns must be"),
        ({"columns": {"input_ids": {"type": "int63", "rank": 1}}}, "type must be"),
        (
            {"columns": {"input_ids": {"type": "int64", "rank": 2, "shape": [8]}}},
            r"input_ids has rank 2 and the shape \[8\]",
        ),
        ({"columns": {"input_ids": {"type": "int64", "shape": [-3]}}}, r"input_ids has the shape \[-3\]"),
    ],
)
def test_an_impossible_schema_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, write_tf_records: Write
) -> None:
    path = write_tf_records(tmp_path / "train.tfrecord", [row()])
    with pytest.raises(InputError, match=message):
        read(path, schema=write_schema(tmp_path / "schema.json", **changes))


def test_a_schema_that_is_none_or_is_of_another_file_is_refused(tmp_path: Path, write_tf_records: Write) -> None:
    path, table = write_tf_records(tmp_path / "train.tfrecord", [row()]), tmp_path / "train.tsv"
    with pytest.raises(InputError, match="cannot be read"):
        read(path, schema=tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(InputError, match="is no JSON object"):
        read(path, schema=tmp_path / "bad.json")
    table.write_text("sentence\tlabel\na\t1\n")
    with pytest.raises(InputError, match="is of TFRecord files"):
        read(table, "SST-2", schema=write_schema(tmp_path / "schema.json"))


def test_a_memory_of_one_record_is_enough(tmp_path: Path, write_tf_records: Write) -> None:
    import tracemalloc

    from q8bert.data.records.framing import framed_records

    path = write_tf_records(tmp_path / "train.tfrecord", [bytes(200_000)] * 100)
    with path.open("rb") as file:
        tracemalloc.start()
        try:
            assert sum(isinstance(content, bytes) for _, content in framed_records(file, path)) == 100
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


def test_ids_are_of_four_bytes(tmp_path: Path, write_tf_records: Write) -> None:
    (example,) = read(write_tf_records(tmp_path / "train.tfrecord", [row()])).tokens()
    assert example.input_ids.dtype == example.token_type_ids.dtype == np.int32
