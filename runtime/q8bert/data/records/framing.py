"""TFRecord's framing: one record after the other, each with its length and two checksums.

A record is eight bytes of length, the checksum of these, its content, and the checksum of that; numbers are
little-endian. A checksum is CRC-32C (Castagnoli), rotated and shifted so that it may be stored in data that is
checksummed again. TensorFlow documents the layout in ``tensorflow/core/lib/io/record_writer.h``.
"""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from q8bert.data.examples import CellError
from q8bert.machine.builds import require
from q8bert.spec.errors import InputError

__all__ = ["framed_records"]

_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
_REMEDY = "Copy or write the file again"


def framed_records(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes | CellError]]:
    """Read the records of a file; no more than one is held at a time.

    Args:
        file: The file, at its start.
        path: Its path, for messages.

    Yields:
        Number of each record, from 1, and its content; or that its content is not what was written.

    Raises:
        InputError: If the file is cut off, or a length is damaged, after which nothing can be told apart.
        MissingExtraError: If the library of checksums is not installed.
    """
    require("google_crc32c", extra="tfrecord", purpose=f"reading {path}")
    import google_crc32c  # noqa: PLC0415 - optional

    remaining = os.fstat(file.fileno()).st_size
    number = 0
    while remaining:
        number += 1
        head = file.read(_LENGTH.size + _CHECKSUM.size)
        if len(head) < _LENGTH.size + _CHECKSUM.size:
            raise InputError(_cut_off(path, number))
        if not _fits(google_crc32c.value, head[: _LENGTH.size], head[_LENGTH.size :]):
            hint = "Is it a TFRecord file?" if number == 1 else _REMEDY
            raise InputError(f"{path}, record {number}: the checksum of its length does not fit it. {hint}")
        (length,) = _LENGTH.unpack(head[: _LENGTH.size])
        remaining -= len(head) + length + _CHECKSUM.size
        if remaining < 0:
            raise InputError(_cut_off(path, number))
        content = file.read(length)
        tail = file.read(_CHECKSUM.size)
        if len(content) + len(tail) < length + _CHECKSUM.size:  # somebody shortened it meanwhile
            raise InputError(_cut_off(path, number))
        if _fits(google_crc32c.value, content, tail):
            yield number, content
        else:
            yield number, CellError("-", content[:16], "the checksum of the record does not fit its content")


def _fits(crc32c: Callable[[bytes], int], content: bytes, stored: bytes) -> bool:
    checksum = crc32c(content)
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return _CHECKSUM.unpack(stored) == ((rotated + _MASK_DELTA) & 0xFFFFFFFF,)


def _cut_off(path: Path, number: int) -> str:
    return f"{path}, record {number}: the file ends within the record: it was cut off. {_REMEDY}"
