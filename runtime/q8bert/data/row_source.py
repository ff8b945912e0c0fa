"""Where the splits of a task are: files that are named one by one, or else a folder with all of them."""

from dataclasses import dataclass
from pathlib import Path

from q8bert.data.examples import Split
from q8bert.data.hub import HUB_PREFIX
from q8bert.data.readers import read_file, read_split
from q8bert.spec.errors import ConfigError, InputError
from q8bert.tasks.task import Task

__all__ = ["RowSource", "read_labelled"]


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """Where rows are, and how they are read.

    Attributes:
        data_dir: The task's own folder, or ``hub:nyu-mll/glue``; None where there is none.
        train_file: File of the training split, instead of the folder's.
        dev_file: File of the dev split, instead of the folder's.
        format: How files are written; None for by their endings.
        schema: JSON schema of TFRecord files; None where there is none.
        skip_malformed: Whether malformed rows are left out.
    """

    data_dir: str | None = None
    train_file: str | None = None
    dev_file: str | None = None
    format: str | None = None
    schema: str | None = None
    skip_malformed: bool = False

    def file_of(self, split: str) -> str | None:
        """Return the file that was named for a split; None for one of the folder."""
        return {"train": self.train_file, "dev": self.dev_file}.get(split)

    def place(self, split: str) -> str:
        """Return where a split is, for messages."""
        return self.file_of(split) or self.data_dir or "nowhere"

    def is_there(self, split: str) -> bool:
        """Whether the file of a split, or else the folder, is there; what is on the hub counts as such."""
        if file := self.file_of(split):
            return Path(file).is_file()
        return self.data_dir is not None and (self.data_dir.startswith(HUB_PREFIX) or Path(self.data_dir).is_dir())

    def read(self, task: Task, split: str) -> Split:
        """Read one split, labels included.

        Args:
            task: The task.
            split: ``train``, ``dev`` or another split that the task knows.

        Returns:
            Its rows, every one with a label (but for the hub's test splits, which have none).

        Raises:
            InputError: If there is neither a file nor a folder, or a file or a row is not as it should be.
            MissingExtraError: If a library that reads it is not installed.
        """
        if file := self.file_of(split):
            return read_file(
                task, file, labelled=True, format=self.format, schema=self.schema, skip_malformed=self.skip_malformed
            )
        if self.data_dir is None:
            raise InputError(f"there is no {split} split: neither a file of it nor a folder with all of them is given")
        return read_split(
            task, self.data_dir, split, format=self.format, schema=self.schema, skip_malformed=self.skip_malformed
        )


def read_labelled(
    task: Task,
    data_dir: Path | str | None,
    data_file: Path | str | None,
    *,
    split: str,
    format: str | None,  # noqa: A002 - as on the command line
    schema: Path | str | None,
    skip_malformed: bool,
) -> Split:
    """Read the labelled rows that something is scored on.

    Args:
        task: The task.
        data_dir: Folder of the task's files, or ``hub:nyu-mll/glue``.
        data_file: File of the rows, instead of a split of the folder.
        split: Name of the split of the folder.
        format: How the file is written; None for by its ending.
        schema: JSON schema of a TFRecord file.
        skip_malformed: Leave malformed rows out instead of stopping.

    Returns:
        The rows.

    Raises:
        ConfigError: If both folder and file are given, or neither.
        InputError: If the rows cannot be read.
    """
    if (data_dir is None) == (data_file is None):
        raise ConfigError(
            ["give either the task's folder with --data-dir, or a file of labelled rows with --data-file"]
        )
    if data_file is not None:
        if split != "dev":
            raise ConfigError([f"split ({split}) is of --data-dir, and --data-file is a file; leave one of them out"])
        return read_file(task, data_file, labelled=True, format=format, schema=schema, skip_malformed=skip_malformed)
    return read_split(task, str(data_dir), split, format=format, schema=schema, skip_malformed=skip_malformed)
