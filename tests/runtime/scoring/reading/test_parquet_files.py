"""Parquet: columns keep values and types, memory is bounded by portions, and the answers have types of their own."""

import csv
import datetime
import decimal
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q8bert.runtime import Classifier, ScoreReport
from q8bert.runtime.scoring.reading.parquet_files import parquet_portions, parquet_units
from q8bert.spec.errors import InputError

pa = pytest.importorskip("pyarrow", reason="needs the extra parquet")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")

Job = Callable[..., ScoreReport]
TEXTS = ["a great film", "bad", "Ünïcode 🤖", "", "good"]


def rich_table() -> Any:
    return pa.table(
        {
            "id": pa.array([1, 2, 3, None, 5], pa.uint16()),
            "sentence": pa.array(TEXTS),
            "when": pa.array([datetime.datetime(2024, 2, 29, 1, 2, 3, 4)] * 5, pa.timestamp("us", tz="Europe/Berlin")),
            "price": pa.array([decimal.Decimal("1.10")] * 5, pa.decimal128(9, 2)),
            "kind": pa.array(["x", "y", "x", None, "x"]).dictionary_encode(),
            "tags": pa.array([["a"], [], None, ["b", "c"], [""]]),
            "deep": pa.array([{"a": 1, "b": "z"}] * 5),
            "raw": pa.array([b"\xff\x00", b"", None, b"a", b"b"]),
            "half": pa.array([0.1, 0.5, None, 1e30, -1.0], pa.float32()),
        }
    ).replace_schema_metadata({"made by": "a test"})


def test_columns_keep_values_types_and_metadata(job: Job, sentiment: Classifier, tmp_path: Path) -> None:
    table = rich_table()
    pq.write_table(table, tmp_path / "rows.parquet", compression="zstd", row_group_size=2)
    report = job(tmp_path / "rows.parquet")
    found = pq.read_table(tmp_path / "out" / "rows.parquet")
    assert found.select(table.column_names).equals(table)
    assert found.schema.metadata[b"made by"] == b"a test"
    added = found.drop_columns(table.column_names)
    assert [(field.name, field.type) for field in added.schema] == [
        ("label", pa.string()),
        ("probability_negative", pa.float32()),
        ("probability_positive", pa.float32()),
        ("truncated", pa.bool_()),
    ]
    answers = sentiment(TEXTS)
    assert added["label"].to_pylist() == [answer.label for answer in answers]
    assert added["probability_positive"].to_pylist() == [answer.probabilities["positive"] for answer in answers]
    assert pq.ParquetFile(tmp_path / "out" / "rows.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    assert (report.n_rows, report.n_truncated) == (5, 0)


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary"])
def test_texts_of_every_kind_of_column(job: Job, sentiment: Classifier, tmp_path: Path, kind: str) -> None:
    column = pa.array(TEXTS)
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(pa, kind)())
    pq.write_table(pa.table({"text": column}), tmp_path / "rows.parquet")
    job(tmp_path / "rows.parquet")
    found = pq.read_table(tmp_path / "out" / "rows.parquet")
    assert found["label"].to_pylist() == [answer.label for answer in sentiment(TEXTS)]
    assert found["text"].to_pylist() == TEXTS


@pytest.mark.usefixtures("small_portions")
@pytest.mark.parametrize("group", [1, 4, 7, 100])
def test_units_hold_every_row_once_in_portions_that_do_not_depend_on_them(tmp_path: Path, group: int) -> None:
    table = pa.table({"text": [str(at) for at in range(50)], "n": range(50)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=group)
    whole, apart = (
        [
            (portion.first_row, portion.table.column("n").to_pylist())
            for unit in parquet_units(tmp_path / "rows.parquet", whole=whole)
            for portion in parquet_portions(tmp_path / "rows.parquet", unit)
        ]
        for whole in (True, False)
    )
    assert whole == apart
    assert [at for _, rows in whole for at in rows] == list(range(50))
    assert all(rows[0] == first and len(rows) <= 3 for first, rows in whole)
    if group == 100:
        assert len(parquet_units(tmp_path / "rows.parquet", whole=False)) == 9


def test_portions_of_large_rows_are_small(tmp_path: Path) -> None:
    texts = [f"{at}" + "x" * 100_000 for at in range(200)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", compression="none", use_dictionary=False)
    units = parquet_units(tmp_path / "rows.parquet", whole=True)
    sizes = [portion.n_rows for unit in units for portion in parquet_portions(tmp_path / "rows.parquet", unit)]
    assert sum(sizes) == 200
    assert max(sizes) <= 42, "4 MiB hold 41 rows of 100 kB"


def test_rows_without_a_text_stop_it_or_have_no_answer(job: Job, tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0\5\0\0\0\6\0\0\0"), pa.py_buffer(b"good\xffb")]
    )
    pq.write_table(pa.table({"sentence": pa.array(["good", None, "bad"])}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"sentence": broken}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"a\.parquet, row 2: column sentence: a text is missing"):
        job(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"b\.parquet, row 2: not UTF-8 at byte 0 of the cell"):
        job(tmp_path / "b.parquet")
    report = job(tmp_path / "a.parquet", tmp_path / "b.parquet", output_dir=tmp_path / "skipping", skip_malformed=True)
    assert (report.n_rows, report.n_malformed) == (6, 2)
    for name, labels in (("a", ["positive", None, "negative"]), ("b", ["positive", None, "negative"])):
        found = pq.read_table(tmp_path / "skipping" / f"{name}.parquet")
        assert found["label"].to_pylist()[:2] == labels[:2]
        assert [error is None for error in found["error"].to_pylist()] == [True, False, True]
    assert found["sentence"].combine_chunks().buffers()[2].to_pybytes() == b"good\xffb", "kept as it was"


def test_columns_that_do_not_fit_are_named(job: Job, tmp_path: Path) -> None:
    pq.write_table(pa.table({"sentence": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column sentence is of type int64, where texts are needed"):
        job(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet lacks words; it has sentence"):
        job(tmp_path / "a.parquet", text="words")
    pq.write_table(pa.table({"text": ["a"], "probability_positive": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="has probability_positive already"):
        job(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"c\.parquet is not readable as Parquet"):
        job(tmp_path / "c.parquet")


def test_checksums_of_pages_are_verified_where_the_writer_made_them(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    texts = pa.table({"text": ["some words here"] * 2000})
    pq.write_table(texts, path, write_page_checksum=True, use_dictionary=False, compression="none")
    content = bytearray(path.read_bytes())
    content[content.find(b"words", 3000)] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not readable as Parquet: could not verify page integrity"):
        job(path)


def test_a_file_without_rows_or_groups(job: Job, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    assert job(tmp_path / "rows.parquet").n_rows == 0
    assert pq.read_table(tmp_path / "out" / "rows.parquet").column_names[0:2] == ["text", "label"]


def test_parquet_as_lines_and_tables(job: Job, tmp_path: Path) -> None:
    table = rich_table().drop_columns(["raw"])
    pq.write_table(table, tmp_path / "rows.parquet")
    job(tmp_path / "rows.parquet", output_format="jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["sentence"] for row in rows] == TEXTS
    assert (rows[0]["price"], rows[0]["tags"], rows[0]["deep"]) == ("1.10", ["a"], {"a": 1, "b": "z"})
    assert datetime.datetime.fromisoformat(rows[0]["when"]) == table["when"][0].as_py()
    job(tmp_path / "rows.parquet", output_format="csv", output_dir=tmp_path / "tables")
    content = (tmp_path / "tables" / "rows.csv").read_bytes().decode()
    found = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["id"] for row in found] == ["1", "2", "3", "", "5"]
    assert found[0]["tags"] == '["a"]'
    pq.write_table(rich_table(), tmp_path / "bytes.parquet")
    with pytest.raises(InputError, match="a value of type bytes, which has no form as text"):
        job(tmp_path / "bytes.parquet", output_format="csv", output_dir=tmp_path / "tables")


def test_lines_as_parquet_have_the_types_of_the_first_ones(job: Job, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "good", "n": 1}\n{"text": "bad", "x": [1.5]}\nbroken\n')
    job(source, output_format="parquet", skip_malformed=True)
    found = pq.read_table(tmp_path / "out" / "rows.parquet")
    assert found.select(["text", "n", "x"]).to_pylist() == [
        {"text": "good", "n": 1, "x": None},
        {"text": "bad", "n": None, "x": [1.5]},
        {"text": None, "n": None, "x": None},
    ]
    assert found["error"].to_pylist()[2].endswith("the row is: broken")
    source.write_text('{"text": "good", "n": 1}\n' * 4096 + '{"text": "bad", "n": "one"}\n')
    with pytest.raises(InputError, match="not of the type of the first rows"):
        job(source, output_format="parquet", output_dir=tmp_path / "other")
    source.write_text('{"text": "good"}\n' * 4096 + '{"text": "bad", "n": 1}\n')
    with pytest.raises(InputError, match="a row has n, which none of the first rows has"):
        job(source, output_format="parquet", output_dir=tmp_path / "third", batch_size=256)


def test_a_large_group_of_rows_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = [draw.bytes(150).hex() for _ in range(100_000)]
    pq.write_table(pa.table({"text": texts, "other": texts}), tmp_path / "rows.parquet", row_group_size=100_000)
    del texts
    (unit,) = parquet_units(tmp_path / "rows.parquet", whole=True)
    before, most, n_rows = pa.total_allocated_bytes(), 0, 0
    for portion in parquet_portions(tmp_path / "rows.parquet", unit):
        most = max(most, pa.total_allocated_bytes() - before)
        n_rows += portion.n_rows
    assert n_rows == 100_000
    assert most < 30e6 < (tmp_path / "rows.parquet").stat().st_size
