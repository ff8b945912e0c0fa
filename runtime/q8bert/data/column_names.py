"""Which columns a file has, for those who choose by it how the file is read."""

import csv
import json
from pathlib import Path

from q8bert.data.formats.parquet import parquet_columns
from q8bert.data.formats.text_lines import text_lines
from q8bert.data.readers import Format, format_of
from q8bert.data.records.token_rows import IDS, LABEL, MASK, SEGMENTS
from q8bert.tasks.data_set import TOKEN_FORMATS

__all__ = ["column_names"]

_DELIMITERS = {"tsv": "\t", "quoted-tsv": "\t", "csv": ","}


def column_names(path: Path, *, format: Format = None) -> tuple[str, ...]:  # noqa: A002 - as on the command line
    """Return the columns of a table by its header, of JSON lines by the first object.

    Args:
        path: The file.
        format: How it is written; see :func:`q8bert.data.readers.read_file`.

    Returns:
        Their names; none of a file that cannot be read that way, of which ``read_file`` says why.
    """
    told = format_of(path, format) or "tsv"
    if told in TOKEN_FORMATS:
        return IDS, MASK, SEGMENTS, LABEL
    try:
        if told == "parquet":
            return parquet_columns(path)
        with path.open("rb") as file:
            first = next((line for line in text_lines(file) if line.strip()), "").rstrip("\r\n")
        if told == "jsonl":
            row = json.loads(first)
            return tuple(row) if isinstance(row, dict) else ()
        if told == "tsv":
            return tuple(first.split("\t"))
        return tuple(next(csv.reader([first], delimiter=_DELIMITERS[told], strict=True), ()))
    except (OSError, ValueError, RecursionError, csv.Error):  # an InputError is a ValueError
        return ()
