"""Bundles and the test rows of GLUE → a file for its leaderboard.

Everything is checked before the first row is predicted: a bundle to every task, every test file and its number of rows,
and that the output can be written. What lacks is an error, or filled with one and the same answer where that is allowed
by name.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from q8bert.data.examples import Split, text_columns
from q8bert.data.hub import HUB_PREFIX
from q8bert.data.submission import (
    SUBMISSION_FILES,
    SubmissionFile,
    constant_cells,
    read_test_rows,
    submission_cell,
    write_submission,
)
from q8bert.runtime.engines.engine import ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import Provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.predict.classifier import BatchSize, Classifier, Threads
from q8bert.runtime.predict.graph_choice import AUTO, GraphName
from q8bert.spec.bundle.bundle import open_bundle
from q8bert.spec.checked import checked
from q8bert.spec.errors import BundleError, ConfigError, InputError
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.tasks.task import task_from_json

__all__ = ["SubmissionReport", "SubmittedFile", "submit"]

# rows between two calls of show_progress; also how far sorting by length reaches
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class SubmittedFile:
    """One table of a submission.

    Attributes:
        name: Its name in the zip.
        n_rows: Its rows, as many as the official test file has.
        bundle: What answered it; empty where it holds one and the same answer.
        n_truncated: Rows that were longer than the bundle's maximum length, and lost tokens.
        constant: The answer that stands in every row, where nothing was predicted; empty elsewhere.
        lacked: What there was not, in words; empty where nothing lacked.
    """

    name: str
    n_rows: int
    bundle: str = ""
    n_truncated: int = 0
    constant: str = ""
    lacked: str = ""


@dataclass(frozen=True, kw_only=True)
class SubmissionReport:
    """What was written for the leaderboard.

    Attributes:
        output: The zip file.
        files: Its tables in order.
        is_complete: Whether every table was predicted.
    """

    output: str
    files: tuple[SubmittedFile, ...]
    is_complete: bool


@checked
def submit(
    bundles: Sequence[Path | str],
    data_dir: Path | str,
    output: Path | str,
    *,
    allow_missing: bool = False,
    engine: EngineName = ONNX_RUNTIME,
    providers: Sequence[Provider] = (CPU_PROVIDER,),
    graph: GraphName = AUTO,
    threads: Threads = 0,
    bfloat16: bool = False,
    batch_size: BatchSize = 32,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> SubmissionReport:
    """Predict the test rows of GLUE, and write them as its leaderboard takes them.

    Args:
        bundles: One of each task; that of MNLI answers both of its test files, and AX.
        data_dir: Folder with a folder for each task, as GLUE's zip files make it, or ``hub:nyu-mll/glue``.
        output: The zip file to write; it appears when it is complete.
        allow_missing: Fill the tables of tasks without a bundle or a test file with one and the same answer, so that
            the leaderboard takes the file; the scores of these tasks, and the mean over all, then say nothing.
        engine: What runs the models: ``onnxruntime`` or ``openvino``.
        providers: ONNX Runtime's execution providers by full name, or pairs of a name and its options.
        graph: Form of each model: ``main``, a target of the export, or ``auto`` for what suits the first provider.
        threads: CPU threads; 0 for the cores that this process may use.
        bfloat16: Whether OpenVINO computes what is not in integers in bfloat16.
        batch_size: Rows a batch.
        show_progress: Called with rows done and rows in all.

    Returns:
        What each table holds.

    Raises:
        BundleError: If a bundle is incomplete or altered.
        ConfigError: If a bundle is of no task of GLUE or has other labels, or two are of the same.
        InputError: If something lacks and ``allow_missing`` is false, a test file cannot be read or has not the
            official number of rows, or there is no such output.
        OutputError: If the output cannot be written.
    """
    places, output = _by_task(bundles), Path(output)
    _refuse_output(output)
    rows, lacked = _test_rows(places, str(data_dir))
    if not rows or (lacked and not allow_missing):
        told = "; ".join(f"{name}: {what}" for name, what in lacked.items())
        raise InputError(
            f"the leaderboard takes all {len(SUBMISSION_FILES)} tables together, and some lack: {told}. Give the "
            "bundles and test files, or fill these tables with one and the same answer by --allow-missing"
        )
    options = RuntimeOptions.batch(threads=threads, bfloat16=bfloat16)
    reports, tables = dict[str, SubmittedFile](), dict[str, list[str]]()
    n_done, in_all = 0, sum(len(split.examples) for split in rows.values())
    for task_name, place in places.items():
        of_task = [wanted for wanted in SUBMISSION_FILES if wanted.answered_by == task_name and wanted.name in rows]
        if not of_task:
            continue
        classifier = Classifier.load(place, engine=engine, providers=providers, options=options, graph=graph)
        for wanted in of_task:
            show = partial(_show_from, n_done, in_all, show_progress)
            cells, n_truncated = _predicted(classifier, wanted, rows[wanted.name], batch_size, show)
            n_done += len(cells)
            tables[wanted.name] = cells
            reports[wanted.name] = SubmittedFile(
                name=wanted.name, n_rows=len(cells), bundle=str(place), n_truncated=n_truncated
            )
    for wanted in SUBMISSION_FILES:
        if wanted.name in lacked:
            tables[wanted.name] = cells = constant_cells(wanted)
            reports[wanted.name] = SubmittedFile(
                name=wanted.name, n_rows=len(cells), constant=cells[0], lacked=lacked[wanted.name]
            )
    names = [wanted.name for wanted in SUBMISSION_FILES]
    write_submission(output, [(name, tables[name]) for name in names])
    return SubmissionReport(output=str(output), files=tuple(reports[name] for name in names), is_complete=not lacked)


def _test_rows(places: Mapping[str, Path], data_dir: str) -> tuple[dict[str, Split], dict[str, str]]:
    """Return the rows of each table, and what lacks of the others."""
    if not data_dir.startswith(HUB_PREFIX) and not Path(data_dir).is_dir():
        raise InputError(f"data folder {data_dir} does not exist; --data-dir is the folder with GLUE's folders in it")
    rows, lacked = dict[str, Split](), dict[str, str]()
    for wanted in SUBMISSION_FILES:
        if wanted.answered_by not in places:
            lacked[wanted.name] = f"no bundle of {wanted.answered_by}"
        elif (found := read_test_rows(wanted, data_dir)) is None:
            lacked[wanted.name] = f"no test rows of {wanted.rows_of} in {data_dir}"
        else:
            rows[wanted.name] = found
    return rows, lacked


def _show_from(n_done: int, in_all: int, show: Callable[[int, int], None], n_of_table: int) -> None:
    show(n_done + n_of_table, in_all)


def _predicted(
    classifier: Classifier, wanted: SubmissionFile, rows: Split, batch_size: int, show: Callable[[int], None]
) -> tuple[list[str], int]:
    """Return the answers of a table, and how many rows lost tokens."""
    task, cells, n_truncated = glue_task(wanted.answered_by), list[str](), 0
    for start in range(0, len(rows.examples), _CHUNK):
        answers = classifier.answers(*text_columns(rows.examples[start : start + _CHUNK]), batch_size=batch_size)
        for index, answer in enumerate(answers, start=start):
            if isinstance(answer, InputError | BundleError):
                raise type(answer)(f"{rows.source}, index {index}: {answer}") from answer
            n_truncated += answer.truncated
            cells.append(submission_cell(task, answer))
        show(len(cells))
    return cells, n_truncated


def _by_task(bundles: Sequence[Path | str]) -> Mapping[str, Path]:
    """Return the bundle of each task, and refuse what the leaderboard has no place for."""
    places: dict[str, Path] = {}
    faults = [] if bundles else ["no bundle was given; give one of each task of GLUE"]
    for bundle in map(Path, bundles):
        try:
            task = task_from_json(open_bundle(bundle).manifest.task, source=str(bundle))
        except ConfigError as error:
            raise BundleError(f"{error}. Export the bundle again") from error
        known = GLUE_TASKS.get(task.name)
        if known is None or not known.data.has_training_data:
            faults.append(
                f"{bundle} is a bundle of {task.name}, which is no task that the leaderboard scores a model on"
            )
        elif set(known.head.labels) != set(task.head.labels):  # in another order they are found by their names
            faults.append(
                f"{bundle} has the labels {list(task.head.labels)}, and {task.name} {list(known.head.labels)}"
            )
        elif task.name in places:
            faults.append(f"{places[task.name]} and {bundle} are both bundles of {task.name}; give one of them")
        else:
            places[task.name] = bundle
    if faults:
        raise ConfigError(faults)
    return places


def _refuse_output(output: Path) -> None:
    if not output.parent.is_dir():
        raise InputError(f"cannot write {output}: the folder {output.parent} does not exist")
    if not output.exists():
        return
    if not output.is_file():
        raise InputError(f"cannot write {output}: it is no ordinary file; give the name of a file")
    if output.stat().st_size and not zipfile.is_zipfile(output):
        raise InputError(f"cannot write {output}: what stands there is no zip file; give another --output-file")
