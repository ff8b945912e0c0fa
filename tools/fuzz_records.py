"""Files that are no text, some of them damaged: TFRecord with token ids, and Parquet."""

import io
import struct
from random import Random
from typing import Any

import google_crc32c
import pyarrow
from pyarrow import parquet

from q8bert.tasks.task import Task

__all__ = ["rows_as_parquet", "rows_as_tf_records"]

_LENGTH = 12


def rows_as_tf_records(task: Task, rng: Random) -> bytes:
    """Return a TFRecord file; its checksums fit, unless bytes were damaged afterwards."""
    records = []
    for _ in range(rng.randrange(1, 8)):
        columns = _columns(task, rng)
        if rng.random() < 0.3:
            _damage_columns(columns, rng)
        message = _message(columns)
        records.append(_damaged(message, rng) if rng.random() < 0.1 else message)
    content = b"".join(_framed(record) for record in records)
    return _damaged(content, rng) if rng.random() < 0.4 else content


def rows_as_parquet(task: Task, rng: Random) -> bytes:
    """Return a Parquet file of the task's columns, or nearly so."""
    n_rows, data = rng.randrange(30), task.data
    columns: dict[str, Any] = {data.text_column: [_text(rng) for _ in range(n_rows)]}
    if data.text_pair_column:
        columns[data.text_pair_column] = [_text(rng) for _ in range(n_rows)]
    names = task.head.labels or ("0.5", "2")
    columns[data.label_column] = [rng.choice(names) for _ in range(n_rows)]
    if rng.random() < 0.3:
        name = rng.choice(list(columns))
        values: list[Any] = [None, 1, 2.5, "x", b"\xff", [1], {"a": 1}, True]
        columns[rng.choice([name, "text", "label", "other"])] = [rng.choice(values)] * n_rows
    target = io.BytesIO()
    parquet.write_table(
        pyarrow.table(columns), target, compression=rng.choice(["none", "snappy", "zstd"]),
        row_group_size=rng.choice([1, 7, 1000]), use_dictionary=rng.random() < 0.5,
    )  # fmt: skip
    content = target.getvalue()
    return _damaged(content, rng) if rng.random() < 0.5 else content


def _columns(task: Task, rng: Random) -> dict[str, list[Any]]:
    n_tokens = rng.randrange(4, _LENGTH + 1)
    n_padding = _LENGTH - n_tokens
    label: Any = rng.randrange(len(task.head.labels)) if task.head.labels else rng.random()
    return {
        "input_ids": [2, *(rng.randrange(4, 30) for _ in range(n_tokens - 2)), 3, *[0] * n_padding],
        "input_mask": [1] * n_tokens + [0] * n_padding,
        "segment_ids": [0] * _LENGTH,
        "label_ids": [label],
        "is_real_example": [int(rng.random() < 0.9)],
    }


def _damage_columns(columns: dict[str, list[Any]], rng: Random) -> None:
    name = rng.choice(list(columns))
    values: list[Any] = [-1, 2**40, -(2**63), 0.5, float("nan"), b"", b"abc", 1]
    kind = rng.randrange(5)
    if kind == 0:
        del columns[name]
    elif kind == 1:
        columns[name] = []
    elif kind == 2:
        columns[name] = [rng.choice(values)] * rng.randrange(1, 20)
    elif kind == 3:
        columns[name].append(columns[name][0])
    else:
        columns[name] = [rng.randrange(3) for _ in columns[name]]


def _framed(record: bytes) -> bytes:
    def checksum(content: bytes) -> bytes:
        value = google_crc32c.value(content)
        return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + checksum(length) + record + checksum(record)


def _message(columns: dict[str, list[Any]]) -> bytes:
    """Return ``tf.train.Example`` in protobuf's wire format."""
    entries = [_field(1, name.encode()) + _field(2, _feature(values)) for name, values in columns.items()]
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def _feature(values: list[Any]) -> bytes:
    if all(isinstance(value, int) for value in values):
        return _field(3, _field(1, b"".join(_varint(value) for value in values)))
    if all(isinstance(value, float) for value in values):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return _field(1, b"".join(_field(1, value if isinstance(value, bytes) else b"x") for value in values))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    digits, number = [], number % 2**64
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _text(rng: Random) -> str:
    return " ".join(rng.choice(["good", "bad", "é", "日本", '"', ""]) for _ in range(rng.randrange(6)))


def _damaged(content: bytes, rng: Random) -> bytes:
    damaged = bytearray(content)
    kind = rng.randrange(4)
    at = rng.randrange(len(damaged) + 1)
    if kind == 0:
        return bytes(damaged[:at])
    if kind == 1:
        return bytes(damaged[:at] + rng.randbytes(rng.randrange(1, 20)) + damaged[at:])
    for _ in range(rng.randrange(1, 4) if damaged else 0):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)
