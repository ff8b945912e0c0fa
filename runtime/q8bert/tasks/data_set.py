"""Where the rows of a task stand, how they are written, and by what they are scored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PureWindowsPath

__all__ = ["FORMATS", "METRICS", "REGRESSION_METRICS", "TOKEN_FORMATS", "DataSet"]

METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")
REGRESSION_METRICS = ("pearson", "spearman")
TOKEN_FORMATS = ("tfrecord", "mindrecord")
FORMATS = ("tsv", "quoted-tsv", "csv", "jsonl", "parquet", *TOKEN_FORMATS)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The files of a task.

    Attributes:
        name: Name as users write it, for example ``STS-B``.
        text_column: Column of the first (or only) text.
        text_pair_column: Column of the second text, or None.
        label_column: Column of the label or score.
        label_codes: How the files write the labels, in id order; empty if they write the names.
        metrics: Names of the metrics, see :data:`METRICS`. The first picks the best checkpoint and is
            what the gate compares.
        files: File name of each split, where it is not ``<split>.tsv``, ``<split>.jsonl`` or the like.
        format: How the files are written, one of :data:`FORMATS`, where their ending does not say it: ``.csv``,
            ``.jsonl`` and ``.parquet`` do. None is ``tsv``, unquoted as GLUE's, and an error where a file looks quoted.
        headerless_columns: Column names for files that come without a header line.
        hub_name: Configuration name in ``nyu-mll/glue``, or empty.
        has_training_data: False for a diagnostic set that only evaluates.
    """

    name: str
    text_column: str
    text_pair_column: str | None = None
    label_column: str
    label_codes: tuple[str, ...] = ()
    metrics: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    headerless_columns: tuple[str, ...] = ()
    hub_name: str = ""
    has_training_data: bool = True

    @property
    def has_pairs(self) -> bool:
        """Whether a row is a pair of texts."""
        return self.text_pair_column is not None

    @property
    def main_metric(self) -> str:
        """The metric that picks the best checkpoint and that the gate compares."""
        return self.metrics[0]

    def faults(self) -> list[str]:
        """Return what is wrong with the definition, in words; empty when nothing is."""
        names = {"name": self.name, "text_column": self.text_column, "label_column": self.label_column}
        faults = [f"{name} is empty" for name, value in names.items() if not value]
        if len(set(self.label_codes)) != len(self.label_codes):
            faults.append(f"label_codes must be different from one another, got {list(self.label_codes)}")
        if self.label_column in {self.text_column, self.text_pair_column}:
            faults.append(f"label_column {self.label_column!r} is a text column too")
        if self.text_pair_column == self.text_column:
            faults.append(f"text_pair_column {self.text_column!r} is text_column too; leave it out for one text a row")
        if self.format is not None and self.format not in FORMATS:
            faults.append(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        faults += [
            f"files: {split!r} is {name!r}, which leaves the data folder or is no file name; name a file in it"
            for split, name in self.files.items()
            if not _is_inside(name)
        ]
        faults += self._column_faults()
        if not self.metrics or not set(self.metrics) <= set(METRICS):
            faults.append(f"metrics must be from {', '.join(METRICS)}, got {list(self.metrics)}")
        return faults

    def _column_faults(self) -> list[str]:
        there = self.headerless_columns
        if not there:
            return []
        needed = (self.text_column, self.text_pair_column, self.label_column)
        missing = [name for name in needed if name is not None and there.count(name) != 1]
        return [f"headerless_columns must name {name} once, got {list(there)}" for name in missing]


def _is_inside(name: str) -> bool:
    # by the rules of both kinds of systems: a task may have been described on another one
    parts = PureWindowsPath(name).parts
    return bool(parts) and name.isprintable() and ".." not in parts and not PureWindowsPath(name).anchor
