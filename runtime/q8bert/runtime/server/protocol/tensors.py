"""Tensors as the Open Inference Protocol writes them: in JSON, or as bytes behind the JSON.

The binary extension: the header ``Inference-Header-Content-Length`` says how long the JSON is, and what follows are the
tensors in order, each as long as its parameter ``binary_data_size`` says. A text there is its length in four bytes,
little-endian, and its UTF-8.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from q8bert.spec.errors import InputError

__all__ = ["Output", "Texts", "read_json", "read_texts", "split_body"]

_LENGTH_BYTES = 4
_N_SHOWN = 60


@dataclass(frozen=True)
class Texts:
    """A tensor of texts.

    Attributes:
        name: Which input it is.
        values: Its texts, in row-major order.
    """

    name: str
    values: list[str]


@dataclass(frozen=True)
class Output:
    """A tensor of an answer.

    Attributes:
        name: Which output it is.
        datatype: ``BYTES``, ``FP32`` or ``BOOL``.
        shape: Its shape.
        values: Its values, in row-major order.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]

    def to_bytes(self) -> bytes:
        """Return the values as the binary extension has them."""
        if self.datatype == "BYTES":
            encoded = [value.encode() for value in self.values]
            return b"".join(len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in encoded)
        kind: np.dtype[Any] = np.dtype({"FP32": "<f4", "BOOL": "?"}[self.datatype])
        return np.asarray(self.values, dtype=kind).tobytes()


def split_body(body: bytes, json_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """Split a body into its JSON and the tensors behind it.

    Args:
        body: All of it.
        json_length: The header that says how long the JSON is; None where the body is JSON alone.

    Returns:
        The JSON object, and what follows it.

    Raises:
        InputError: If the header is no length within the body, or the JSON is none.
    """
    view = memoryview(body)
    n_json = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 20):
            raise InputError(f"Inference-Header-Content-Length must be a number of bytes, got {json_length[:20]!r}")
        n_json = int(json_length)
        if n_json > len(body):
            raise InputError(f"Inference-Header-Content-Length is {n_json}, and the body has {len(body)} bytes")
    return read_json(bytes(view[:n_json])), view[n_json:]


def read_json(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Args:
        text: UTF-8.

    Returns:
        The object.

    Raises:
        InputError: If it is no JSON object.
    """
    try:
        content = json.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"the JSON is not UTF-8, at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"the body must be a JSON object, got {type(content).__name__}")
    return content


def read_texts(tensor: object, data: memoryview, *, max_rows: int) -> tuple[Texts, int]:
    """Read one input tensor.

    Args:
        tensor: What the JSON says of it: name, datatype, shape, and data or ``binary_data_size``.
        data: The bytes behind the JSON that are not read yet.
        max_rows: Most texts.

    Returns:
        The texts, and how many of the bytes were theirs.

    Raises:
        InputError: If anything of it does not fit.
    """
    if not isinstance(tensor, Mapping) or not isinstance(tensor.get("name"), str):
        raise InputError(f"an input must be an object with a name, got {repr(tensor)[:_N_SHOWN]}")
    name = tensor["name"]
    where = f"input {name[:_N_SHOWN]!r}"
    if tensor.get("datatype") != "BYTES":
        raise InputError(f"{where} must be of datatype BYTES, got {repr(tensor.get('datatype'))[:_N_SHOWN]}")
    n_rows = _n_rows(tensor.get("shape"), where, max_rows=max_rows)
    parameters = tensor.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise InputError(f"parameters of {where} must be an object, got {repr(parameters)[:_N_SHOWN]}")
    if any(str(key).startswith("shared_memory") for key in parameters):
        raise InputError(f"{where} lies in shared memory, which is not offered here; send it in the body")
    size = parameters.get("binary_data_size")
    if (size is None) == (tensor.get("data") is None):
        raise InputError(f"{where} must have either data in the JSON or binary_data_size")
    if size is None:
        return Texts(name, _texts_of_json(tensor["data"], n_rows, where)), 0
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(data):
        raise InputError(f"binary_data_size of {where} is {size!r:.20}, and {len(data)} bytes are left of the body")
    return Texts(name, _texts_of_bytes(data[:size], n_rows, where)), size


def _n_rows(shape: object, where: str, *, max_rows: int) -> int:
    fits = isinstance(shape, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
    if not fits or not isinstance(shape, list) or len(shape) not in {1, 2} or shape[1:] not in ([], [1]):
        raise InputError(f"{where} must have the shape [rows, 1] or [rows], got {repr(shape)[:_N_SHOWN]}")
    if shape[0] < 1:
        raise InputError(f"{where} has no rows: its shape is {repr(shape)[:_N_SHOWN]}; send one at least")
    if shape[0] > max_rows:
        raise InputError(
            f"{where} has {str(shape[0])[:20]} rows, and at most {max_rows} are taken; send several requests"
        )
    return int(shape[0])


def _texts_of_json(data: object, n_rows: int, where: str) -> list[str]:
    if not isinstance(data, list):
        raise InputError(f"data of {where} must be a list, got {type(data).__name__}")
    flat = [item for row in data for item in (row if isinstance(row, list) else [row])]
    if len(flat) != n_rows:
        raise InputError(f"{where} has {len(flat)} texts, and its shape says {n_rows}")
    for number, text in enumerate(flat):
        if not isinstance(text, str):
            raise InputError(f"row {number} of {where} must be a text, got {repr(text)[:_N_SHOWN]}")
    return flat


def _texts_of_bytes(data: memoryview, n_rows: int, where: str) -> list[str]:
    texts: list[str] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        if start > len(data) or at > len(data):
            raise InputError(f"text {len(texts)} of {where} ends behind the tensor's {len(data)} bytes")
        if len(texts) == n_rows:
            raise InputError(f"{where} has more than the {n_rows} texts that its shape says")
        try:
            texts.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"row {len(texts)} of {where} is not UTF-8, at its byte {error.start}") from error
    if len(texts) != n_rows:
        raise InputError(f"{where} has {len(texts)} texts, and its shape says {n_rows}")
    return texts
