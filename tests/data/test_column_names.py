"""The columns of a file, by its header or its first object."""

from pathlib import Path

import pytest

from q8bert.data.column_names import column_names


@pytest.mark.parametrize(
    ("name", "content", "told", "expected"),
    [
        ("a.tsv", b"text\tlabel\na\t1\n", None, ("text", "label")),
        ("a.tsv", b"\xef\xbb\xbftext\tlabel\r\n", None, ("text", "label")),
        ("a.txt", b"text\tlabel\n", None, ("text", "label")),
        ("a.csv", b'"te,xt",label\n', None, ("te,xt", "label")),
        ("a.txt", b'"te""xt"\tlabel\n', "quoted-tsv", ('te"xt', "label")),
        ("a.jsonl", b'\n{"text": "a", "text_pair": "b"}\n{"text": "c"}\n', None, ("text", "text_pair")),
        ("a.txt", b'{"text": "a"}\n', "jsonl", ("text",)),
        ("a.jsonl", b"[1]\n", None, ()),
        ("a.jsonl", b"{", None, ()),
        ("a.csv", b'"text\n', None, ()),
        ("a.tsv", b"", None, ("",)),
    ],
)
def test_columns(tmp_path: Path, name: str, content: bytes, told: str | None, expected: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(content)
    assert column_names(tmp_path / name, format=told) == expected


def test_a_file_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert column_names(tmp_path / "none.tsv") == ()
    assert column_names(tmp_path) == ()
