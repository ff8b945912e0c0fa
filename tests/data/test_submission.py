"""The leaderboard's layout: names, labels and row counts, held against the real test files where there are any."""

import csv
import stat
import zipfile
from pathlib import Path

import pytest

from q8bert.data.submission import (
    SUBMISSION_FILES,
    SubmissionFile,
    constant_cells,
    read_test_rows,
    submission_cell,
    test_file,
    write_submission,
)
from q8bert.spec.errors import InputError
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.tasks.head import Prediction

test_file.__test__ = False  # type: ignore[attr-defined]  # a function of ours, by its name

# of the labels, as GLUE's own files of labelled rows write them
WRITTEN = {
    "CoLA": {"unacceptable": "0", "acceptable": "1"},
    "SST-2": {"negative": "0", "positive": "1"},
    "MRPC": {"not_equivalent": "0", "equivalent": "1"},
    "QQP": {"not_duplicate": "0", "duplicate": "1"},
    "MNLI": {name: name for name in ("entailment", "neutral", "contradiction")},
    "QNLI": {name: name for name in ("entailment", "not_entailment")},
    "RTE": {name: name for name in ("entailment", "not_entailment")},
    "WNLI": {"not_entailment": "0", "entailment": "1"},
}


def table(name: str) -> SubmissionFile:
    return next(wanted for wanted in SUBMISSION_FILES if wanted.name == name)


def test_every_task_of_glue_has_its_table_and_mnli_answers_three() -> None:
    assert {wanted.rows_of for wanted in SUBMISSION_FILES} == set(GLUE_TASKS)
    assert [wanted.name for wanted in SUBMISSION_FILES if wanted.answered_by == "MNLI"] == [
        "MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv",
    ]  # fmt: skip
    assert len({wanted.name for wanted in SUBMISSION_FILES}) == 11


@pytest.mark.parametrize("name", WRITTEN)
def test_labels_are_written_as_the_leaderboard_reads_them(name: str) -> None:
    task = glue_task(name)
    assert {label: submission_cell(task, Prediction(label=label)) for label in task.head.labels} == WRITTEN[name]


@pytest.mark.parametrize(
    ("score", "cell"),
    [(-0.3, "0.000"), (0.0, "0.000"), (2.34567, "2.346"), (5.0, "5.000"), (5.2, "5.000"), (-0.0, "0.000")],
)
def test_scores_have_three_decimals_and_stay_within_the_scale(score: float, cell: str) -> None:
    assert submission_cell(glue_task("STS-B"), Prediction(score=score)) == cell


def test_a_table_of_one_answer_has_the_official_number_of_rows() -> None:
    assert constant_cells(table("WNLI.tsv")) == ["0"] * 146
    assert constant_cells(table("AX.tsv")) == ["entailment"] * 1104
    assert set(constant_cells(table("STS-B.tsv"))) == {"0.000"}


def test_test_files_stand_where_glue_puts_them(tmp_path: Path) -> None:
    for place in ("RTE/test.tsv", "MNLI/test_matched.tsv", "MNLI/test_mismatched.tsv", "diagnostic/diagnostic.tsv"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("index\tsentence1\tsentence2\n")
    found = {wanted.name: test_file(wanted, tmp_path) for wanted in SUBMISSION_FILES}
    assert {name: str(path.relative_to(tmp_path)) for name, path in found.items() if path is not None} == {
        "RTE.tsv": "RTE/test.tsv", "MNLI-m.tsv": "MNLI/test_matched.tsv", "MNLI-mm.tsv": "MNLI/test_mismatched.tsv",
        "AX.tsv": "diagnostic/diagnostic.tsv",
    }  # fmt: skip
    (tmp_path / "diagnostic").rename(tmp_path / "AX")
    assert test_file(table("AX.tsv"), tmp_path) == tmp_path / "AX" / "diagnostic.tsv"


def test_a_part_of_a_test_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "WNLI").mkdir()
    rows = "".join(f"{index}\ta\tb\n" for index in range(145))
    (tmp_path / "WNLI" / "test.tsv").write_text(f"index\tsentence1\tsentence2\n{rows}")
    with pytest.raises(InputError, match=r"WNLI/test.tsv has 145 rows, and the leaderboard asks for 146 in WNLI.tsv"):
        read_test_rows(table("WNLI.tsv"), str(tmp_path))


@pytest.mark.parametrize("wanted", SUBMISSION_FILES, ids=lambda wanted: wanted.name)
def test_real_test_files_have_the_rows_that_the_table_says_numbered_from_0(
    wanted: SubmissionFile, glue_dir: Path
) -> None:
    place = test_file(wanted, glue_dir)
    if place is None:
        pytest.skip(f"needs the test rows of {wanted.rows_of}, which are not in GLUE_DIR")
    rows = read_test_rows(wanted, str(glue_dir))
    assert rows is not None
    assert len(rows.examples) == wanted.n_rows
    with place.open(encoding="utf-8-sig", newline="") as file:
        numbers = [row["index"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    assert numbers == [str(index) for index in range(wanted.n_rows)]


def test_the_same_answers_make_the_same_file_that_others_may_read(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_submission(tmp_path / name, [("WNLI.tsv", ["0", "1"]), ("AX.tsv", ["neutral"])])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("WNLI.tsv") == b"index\tprediction\n0\t0\n1\t1\n"
        assert archive.read("AX.tsv") == b"index\tprediction\n0\tneutral\n"
        assert {stat.S_IMODE(entry.external_attr >> 16) for entry in archive.infolist()} == {0o644}
