"""Which other files an ONNX file takes weights from, read from its bytes.

ONNX Runtime opens these files by itself, wherever the model says that they are, before anybody could ask what they are.
An ONNX file is a protobuf message, and protobuf's encoding can be walked without its schema
(https://protobuf.dev/programming-guides/encoding): each field is its number and type, and its value. The numbers are
those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; on the ways below lies every tensor of a model.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

__all__ = ["external_files"]

# message → field → message; whatever is not here holds no tensor
_INNER: Mapping[str, Mapping[int, str]] = MappingProxyType({
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
})  # fmt: skip
_KEY, _VALUE = 1, 2
# deeper than any graph within a graph
_DEEPEST = 100


def external_files(model: bytes) -> frozenset[str]:
    """Return where a model's tensors lie, as it says, if not in itself.

    Args:
        model: An ONNX file.

    Returns:
        Every ``location`` of external data.

    Raises:
        ValueError: If it is no protobuf message.
    """
    try:
        return frozenset(_locations(memoryview(model), "model", 0))
    except IndexError as error:
        raise ValueError("it is cut off") from error


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("graphs within graphs without end")
    if kind == "entry":
        entry = {number: bytes(value).decode("utf-8", "replace") for number, value in _fields(message)}
        if entry.get(_KEY) == "location":
            yield entry.get(_VALUE, "")
        return
    inner = _INNER[kind]
    for number, value in _fields(message):
        if number in inner:
            yield from _locations(value, inner[number], depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the bytes of each field that has a length; numbers are passed over."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:  # a number
                _, at = _varint(message, at)
            case 1:  # eight bytes
                at += 8
            case 2:  # a text, or a message
                length, at = _varint(message, at)
                if at + length > end:
                    raise ValueError("it is cut off")
                yield tag >> 3, message[at : at + length]
                at += length
            case 5:  # four bytes
                at += 4
            case _:
                raise ValueError("it is no protobuf message")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("it is no protobuf message")
