"""What a file is that holds no rows of text: recognized by its first bytes, with what to do about it."""

from collections.abc import Mapping
from types import MappingProxyType

from q8bert.spec.files import LFS_POINTER

__all__ = ["N_HEAD_BYTES", "known_start", "what_else_it_is"]

N_HEAD_BYTES = 4096

_UNPACK = "unpack it first"
_CONVERT = "write its rows as CSV or JSON lines in UTF-8"
_SAVE_AS_UTF8 = "save it as UTF-8"

_STARTS: Mapping[bytes, tuple[str, str]] = MappingProxyType(
    {
        b"\x1f\x8b": ("compressed with gzip", _UNPACK),
        b"BZh": ("compressed with bzip2", _UNPACK),
        b"\xfd7zXZ\x00": ("compressed with xz", _UNPACK),
        b"\x28\xb5\x2f\xfd": ("compressed with zstd", _UNPACK),
        b"PK\x03\x04": ("a zip archive or an Excel workbook", f"{_UNPACK}, or {_CONVERT}"),
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Excel workbook", _CONVERT),
        b"PAR1": ("a Parquet file", "read it with --format parquet"),
        b"ARROW1": ("an Arrow file", _CONVERT),
        b"\x93NUMPY": ("an array of numpy", _CONVERT),
        b"\xff\xfe\x00\x00": ("UTF-32", _SAVE_AS_UTF8),
        b"\x00\x00\xfe\xff": ("UTF-32", _SAVE_AS_UTF8),
        b"\xff\xfe": ("UTF-16", _SAVE_AS_UTF8),
        b"\xfe\xff": ("UTF-16", _SAVE_AS_UTF8),
        LFS_POINTER: ("a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    }
)
_TOKENS = b"input_ids"
_MIND_RECORD, _MIND_RECORD_AT = b'{"header_size"', 8
_WEB_PAGES = (b"<!doctype html", b"<html")
# every other byte of English in UTF-16 is one
_NUL_SHARE = 0.2


def what_else_it_is(head: bytes) -> str | None:
    """Recognize a file that holds no rows of text.

    Args:
        head: Its first :data:`N_HEAD_BYTES` bytes.

    Returns:
        What it is and what to do, in words that go on after its name; None where it may be text.
    """
    if known := known_start(head):
        return known
    if head[_MIND_RECORD_AT:].startswith(_MIND_RECORD):
        return "is a MindRecord file; read it with --format mindrecord"
    if _TOKENS in head and b"\0" in head:
        return "holds records of token ids; read it with --format tfrecord"
    if head.lstrip().lower().startswith(_WEB_PAGES):
        return "is a web page; download the file that it shows"
    if head.count(b"\0") > _NUL_SHARE * len(head):
        return f"is no text, or is UTF-16; {_SAVE_AS_UTF8}"
    return None


def known_start(head: bytes) -> str | None:
    """Recognize a file by what it begins with.

    Args:
        head: Its first bytes.

    Returns:
        What it is and what to do, in words that go on after its name; None where nothing is known of it.
    """
    return next((f"is {what}; {remedy}" for start, (what, remedy) in _STARTS.items() if head.startswith(start)), None)
