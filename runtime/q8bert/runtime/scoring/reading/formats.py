"""The formats that rows are read and written in, and the endings that say which."""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ENDING_OF_FORMAT", "FORMAT_OF_ENDING", "SCORED_FORMATS"]

# tables without quotes and with them, JSON lines, Apache Parquet
SCORED_FORMATS = ("csv", "tsv", "quoted-tsv", "jsonl", "parquet")
FORMAT_OF_ENDING: Mapping[str, str] = MappingProxyType({
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
})  # fmt: skip
ENDING_OF_FORMAT: Mapping[str, str] = MappingProxyType({
    "csv": ".csv", "tsv": ".tsv", "quoted-tsv": ".tsv", "jsonl": ".jsonl", "parquet": ".parquet",
})  # fmt: skip
