"""The JSON schema of a TFRecord file, as MindSpore's reader takes it: columns with their types and shapes.

.. code-block:: json

    {
        "datasetType": "TF",
        "numRows": 5749,
        "columns": {
            "input_ids": {"type": "int64", "rank": 1, "shape": [128]},
            "label_ids": {"type": "float32", "rank": 1, "shape": [1]}
        }
    }

``numRows`` may be left out; otherwise no more rows are read than it says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from q8bert.data.examples import CellError
from q8bert.spec.decode import decode
from q8bert.spec.errors import ConfigError, InputError
from q8bert.spec.files import read_json
from q8bert.spec.kinds import at_least, one_of

__all__ = ["RecordSchema", "kind_of", "read_schema"]

_KINDS = {
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"), "integers"),
    **dict.fromkeys(("float16", "float32", "float64"), "floats"),
    **dict.fromkeys(("string", "bytes"), "bytes"),
}
_ANY = -1


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        type: Name of its type, as numpy has it.
        rank: Number of dimensions.
        shape: Length of each; −1 for any. None where the schema says only the rank.
    """

    type: Annotated[str, one_of(tuple(_KINDS))]
    rank: Annotated[int, at_least(0)] | None = None
    shape: tuple[int, ...] | None = None

    def check(self, name: str, values: NDArray[Any]) -> None:
        """Check the values of a record's column.

        Args:
            name: Name of the column.
            values: One dimension, as a record holds them.

        Raises:
            CellError: If they are of another type or number.
        """
        wanted, found = _KINDS[self.type], kind_of(values)
        if wanted != found:
            raise CellError(name, values[:4].tolist(), f"{found}, where the schema says {self.type}")
        shape = (1,) if self.shape is None and self.rank == 0 else self.shape
        if shape is not None and _ANY not in shape and len(values) != math.prod(shape):
            raise CellError(name, values[:4].tolist(), f"{len(values)} values, where the schema says {list(shape)}")


@dataclass(frozen=True, kw_only=True)
class RecordSchema:
    """What a schema says.

    Attributes:
        path: The file.
        n_rows: How many rows are read, at most; None for all.
        columns: What each column holds.
    """

    path: Path
    n_rows: int | None
    columns: Mapping[str, Column]

    def check(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Check one record.

        Args:
            columns: Its columns.

        Raises:
            CellError: If a column is missing or is not as the schema says.
        """
        for name, column in self.columns.items():
            if name not in columns:
                raise CellError(name, None, f"the column is missing, which the schema {self.path} has")
            column.check(name, columns[name])


@dataclass(frozen=True, kw_only=True)
class _File:
    """What the JSON object holds."""

    datasetType: Annotated[str, one_of(("TF",))]  # noqa: N815 - the key
    columns: Mapping[str, Column]
    numRows: Annotated[int, at_least(1)] | None = None  # noqa: N815 - the key


def kind_of(values: NDArray[Any]) -> str:
    """Return what an array holds: ``integers``, ``floats`` or ``bytes``."""
    return {"i": "integers", "u": "integers", "b": "integers", "f": "floats"}.get(
        np.asarray(values).dtype.kind, "bytes"
    )


def read_schema(path: Path, *, needed: tuple[str, ...]) -> RecordSchema:
    """Read a schema.

    Args:
        path: The file.
        needed: Columns that it must have.

    Returns:
        What it says.

    Raises:
        InputError: If it cannot be read, or says nothing possible.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"the schema {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"the schema {path} is no JSON object ({error}). Correct it, or leave it out") from error
    try:
        found = decode(_File, _plain(content))
    except ConfigError as error:
        raise InputError(f"the schema {path}: {'; '.join(error.faults)}") from error
    faults = [f"column {name} is missing" for name in needed if name not in found.columns]
    for name, column in found.columns.items():
        if column.rank is not None and column.shape is not None and column.rank != len(column.shape):
            faults.append(f"column {name} has rank {column.rank} and the shape {list(column.shape)}")
        if any(length < 1 and length != _ANY for length in column.shape or ()):
            faults.append(f"column {name} has the shape {list(column.shape or ())}")
    if faults:
        raise InputError(f"the schema {path}: {'; '.join(faults)}. Correct it, or leave it out")
    return RecordSchema(path=path, n_rows=found.numRows, columns=found.columns)


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that say something of a file's columns, which a schema may hold as a list, too."""
    columns = content.get("columns")
    if isinstance(columns, list) and all(isinstance(column, Mapping) and "name" in column for column in columns):
        columns = {str(column["name"]): column for column in columns}
    if isinstance(columns, Mapping):
        known = ("type", "rank", "shape")
        columns = {
            name: {key: column[key] for key in known if key in column} if isinstance(column, Mapping) else column
            for name, column in columns.items()
        }
    return {key: content[key] for key in ("datasetType", "numRows") if key in content} | {"columns": columns}
