"""MindRecord, by MindSpore's own reader; it keeps an index in a file of the same name with ``.db`` behind it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.data.examples import CellError
from q8bert.machine.builds import require
from q8bert.spec.errors import InputError

__all__ = ["mind_records"]


def mind_records(path: Path) -> Iterator[tuple[int, dict[str, NDArray[Any]] | CellError]]:
    """Read the records of a MindRecord file.

    Args:
        path: The file.

    Yields:
        Number of each record, from 1, and its columns, each of one dimension.

    Raises:
        InputError: If MindSpore cannot read it.
        MissingExtraError: If MindSpore is not installed.
    """
    require("mindspore", extra="mindrecord", purpose=f"reading {path}")
    if not (index := path.with_name(f"{path.name}.db")).is_file():
        raise InputError(f"{path} lacks its index {index.name}, which MindSpore writes beside it. Copy both files")
    from mindspore.mindrecord import FileReader  # noqa: PLC0415 - optional, slow to import

    reader, number = None, 0
    try:
        reader = FileReader(str(path))
        for number, row in enumerate(reader.get_next(), start=1):
            yield number, {name: np.atleast_1d(np.asarray(values)) for name, values in row.items()}
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}, after record {number}: MindSpore cannot read it ({first}). Copy or write both files again"
        ) from error
    finally:
        if reader is not None:
            reader.close()
