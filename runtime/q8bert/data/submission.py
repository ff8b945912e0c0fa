"""What GLUE's leaderboard takes: a zip of eleven tables, one a test file, in its names, labels and row counts.

Each table has the columns ``index``, the row's number from 0, and ``prediction``. CoLA, SST-2, MRPC, QQP and WNLI are
answered with 0 and 1, the others of labels with the label's name, STS-B with a number from 0 to 5. MNLI has two test
files, and its model answers AX, the diagnostic set, too.
"""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from q8bert.data.examples import Split
from q8bert.data.hub import HUB_PREFIX
from q8bert.data.readers import read_file, read_split
from q8bert.spec.errors import InputError
from q8bert.spec.files import new_file
from q8bert.tasks.glue import glue_task
from q8bert.tasks.head import Prediction
from q8bert.tasks.task import Task

__all__ = [
    "SUBMISSION_FILES",
    "SubmissionFile",
    "constant_cells",
    "read_test_rows",
    "submission_cell",
    "test_file",
    "write_submission",
]

_LOWEST_SCORE, _HIGHEST_SCORE = 0.0, 5.0  # of STS-B
# the folder of a task's files, where it does not have the task's name alone
_FOLDERS = {"AX": ("diagnostic", "AX")}
# so that the same answers make the same file
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class SubmissionFile:
    """One table of a submission.

    Attributes:
        name: Its name in the zip.
        answered_by: Task whose model answers it.
        rows_of: Task whose test rows it answers.
        split: Which test file of that task.
        n_rows: Rows of the official test file.
    """

    name: str
    answered_by: str
    rows_of: str
    split: str
    n_rows: int


# counts of the official files, as those of the data set nyu-mll/glue on the hub
SUBMISSION_FILES = (
    SubmissionFile("CoLA.tsv", "CoLA", "CoLA", "test", 1_063),
    SubmissionFile("SST-2.tsv", "SST-2", "SST-2", "test", 1_821),
    SubmissionFile("MRPC.tsv", "MRPC", "MRPC", "test", 1_725),
    SubmissionFile("STS-B.tsv", "STS-B", "STS-B", "test", 1_379),
    SubmissionFile("QQP.tsv", "QQP", "QQP", "test", 390_965),
    SubmissionFile("MNLI-m.tsv", "MNLI", "MNLI", "test", 9_796),
    SubmissionFile("MNLI-mm.tsv", "MNLI", "MNLI", "test_mismatched", 9_847),
    SubmissionFile("QNLI.tsv", "QNLI", "QNLI", "test", 5_463),
    SubmissionFile("RTE.tsv", "RTE", "RTE", "test", 3_000),
    SubmissionFile("WNLI.tsv", "WNLI", "WNLI", "test", 146),
    SubmissionFile("AX.tsv", "MNLI", "AX", "test", 1_104),
)


def test_file(wanted: SubmissionFile, data_dir: Path) -> Path | None:
    """Return where the test rows of a table stand, in the layout of GLUE's zip files.

    Args:
        wanted: The table.
        data_dir: Folder with a folder for each task.

    Returns:
        The file; None where there is none.
    """
    data = glue_task(wanted.rows_of).data
    name = data.files.get(wanted.split, f"{wanted.split}.tsv")
    places = [data_dir / folder / name for folder in _FOLDERS.get(wanted.rows_of, (wanted.rows_of,))]
    return next((place for place in places if place.is_file()), None)


def read_test_rows(wanted: SubmissionFile, data_dir: str) -> Split | None:
    """Read the rows of a table, and check that they are as many as the leaderboard asks for.

    Args:
        wanted: The table.
        data_dir: Folder with a folder for each task, or ``hub:nyu-mll/glue``.

    Returns:
        The rows; None where there is no such file.

    Raises:
        InputError: If they cannot be read, or are not all of the official ones.
    """
    task = glue_task(wanted.rows_of)
    if data_dir.startswith(HUB_PREFIX):
        rows = read_split(task, data_dir, wanted.split)
    else:
        place = test_file(wanted, Path(data_dir))
        if place is None:
            return None
        rows = read_file(task, place, labelled=False)
    if len(rows.examples) != wanted.n_rows:
        raise InputError(
            f"{rows.source} has {len(rows.examples)} rows, and the leaderboard asks for {wanted.n_rows} in "
            f"{wanted.name}. Put the whole official test file of {wanted.rows_of} there"
        )
    return rows


def submission_cell(task: Task, prediction: Prediction) -> str:
    """Return how the leaderboard wants a prediction to be written.

    Args:
        task: A task of GLUE.
        prediction: The answer for one row of it.

    Returns:
        A label's code or name, or a score with three decimals within the scale of STS-B.
    """
    if prediction.score is not None:
        return f"{min(max(_LOWEST_SCORE, prediction.score), _HIGHEST_SCORE):.3f}"
    label = str(prediction.label)
    return task.data.label_codes[task.head.labels.index(label)] if task.data.label_codes else label


def constant_cells(wanted: SubmissionFile) -> list[str]:
    """Return a table of one and the same answer, which the leaderboard takes and which says nothing.

    Args:
        wanted: The table.

    Returns:
        The task's first label, or the lowest score, for each row.
    """
    task = glue_task(wanted.answered_by)
    answer = Prediction(score=_LOWEST_SCORE) if task.head.is_regression else Prediction(label=task.head.labels[0])
    return [submission_cell(task, answer)] * wanted.n_rows


def write_submission(output: Path, tables: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Write a submission; it appears when it is complete.

    Args:
        output: The zip file.
        tables: Name and predictions of each table.

    Raises:
        OutputError: If it cannot be written.
    """
    with new_file(output) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, cells in tables:
            lines = (f"{index}\t{cell}\n" for index, cell in enumerate(cells))
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16  # what can be read by whoever unpacks it
            archive.writestr(entry, "index\tprediction\n" + "".join(lines))
