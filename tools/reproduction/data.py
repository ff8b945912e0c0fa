"""The rows of a campaign: a task's own files, or a stated part of them, chosen by a seed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from q8bert.data.readers import read_split
from q8bert.spec.files import write_text
from q8bert.tasks.task import Task

__all__ = ["OFFICIAL_TRAINING_ROWS", "Rows", "prepare_rows"]

OFFICIAL_TRAINING_ROWS = {
    "CoLA": 8551, "SST-2": 67349, "MRPC": 3668, "STS-B": 5749, "QQP": 363846, "MNLI": 392702, "QNLI": 104743,
    "RTE": 2490, "WNLI": 635,
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Where the rows are, and how many.

    Attributes:
        folder: What `--data-dir` is given.
        n_train: Training rows.
        n_official: Training rows of the official release.
        scored_on: ``dev``, or ``held-out`` where those are training rows that were taken away.
        n_dev: Rows of the dev split, where a part of them is scored; None where all are.
    """

    folder: Path
    n_train: int
    n_official: int | None
    scored_on: str
    n_dev: int | None = None


def prepare_rows(task: Task, source: Path, target: Path, *, n_train: int, held_out: float, n_scored: int = 0) -> Rows:
    """Take a part of a task's rows, or leave its folder as it is where all are wanted.

    Args:
        task: Names the files.
        source: The task's own folder.
        target: Folder for the part.
        n_train: Training rows to keep, drawn by seed 0; 0 for all.
        held_out: Share of the training rows that take the place of the dev split; 0 keeps dev.
        n_scored: Rows of the dev split to keep, drawn by seed 0; 0 for all.

    Returns:
        The rows.
    """
    official = OFFICIAL_TRAINING_ROWS.get(task.name)
    if not (n_train or held_out or n_scored):
        n_rows = len(read_split(task, str(source), "train", skip_malformed=True).examples)
        return Rows(source, n_rows, official, "dev")
    train, dev = (task.data.files.get(name, f"{name}.tsv") for name in ("train", "dev"))
    header, rows = _lines(task, source / train)
    order = np.random.default_rng(0).permutation(len(rows))
    n_held_out = int(held_out * len(rows))
    kept = order[n_held_out:][: n_train or None]
    target.mkdir(parents=True, exist_ok=True)
    _write(target / train, header, [rows[index] for index in kept])
    n_dev = None
    if held_out:
        _write(target / dev, header, [rows[index] for index in order[:n_held_out]])
    elif n_scored:
        header, rows = _lines(task, source / dev)
        drawn = np.random.default_rng(0).permutation(len(rows))[:n_scored]
        _write(target / dev, header, [rows[index] for index in drawn])
        n_dev = len(rows) if n_scored < len(rows) else None
    else:
        shutil.copyfile(source / dev, target / dev)
    return Rows(target, len(kept), official, "held-out" if held_out else "dev", n_dev)


def _lines(task: Task, path: Path) -> tuple[list[str], list[str]]:
    """Return the header, if the task's files have one, and the rows."""
    lines = path.read_text(encoding="utf-8").split("\n")
    header = [] if task.data.headerless_columns else [lines.pop(0)]
    return header, [line for line in lines if line.strip()]


def _write(path: Path, header: list[str], rows: list[str]) -> None:
    write_text(path, "\n".join([*header, *rows]) + "\n")
