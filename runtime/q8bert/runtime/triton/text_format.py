r"""Protobuf's text format, as far as Triton's ``config.pbtxt`` needs it.

A message is a list of fields, in order; a field that is repeated stands there several times. Strings are written as
bytes of their UTF-8: what is not printable ASCII becomes ``\ooo``.
https://protobuf.dev/reference/protobuf/textformat-spec
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Field", "Fields", "Word", "to_text"]


@dataclass(frozen=True)
class Word:
    """The name of one of an enum's values, which stands without quotes.

    Attributes:
        name: For example ``TYPE_STRING``.
    """

    name: str


Fields = Sequence["Field"]
Field = tuple[str, "str | int | Word | Fields"]

_ESCAPES = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r"}


def to_text(fields: Fields) -> str:
    """Write a message.

    Args:
        fields: Pairs of a field's name and its value: a text, a whole number, true or false, a :class:`Word`, or the
            fields of a message.

    Returns:
        One field a line; messages within are indented.
    """
    return "\n".join(_lines(fields)) + "\n"


def _lines(fields: Fields) -> Iterator[str]:
    for name, value in fields:
        if isinstance(value, str | int | Word):
            yield f"{name}: {_scalar(value)}"
        else:
            yield f"{name} {{"
            yield from (f"  {line}" for line in _lines(value))
            yield "}"


def _scalar(value: str | int | Word) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word):
        return value.name
    if isinstance(value, int):
        return str(value)
    return f'"{"".join(_escaped(byte) for byte in value.encode("utf-8"))}"'


def _escaped(byte: int) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
