"""A submission: every table there, every answer the bundle's, or nothing written."""

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from q8bert.data.submission import SUBMISSION_FILES
from q8bert.runtime import Classifier, submit
from q8bert.spec.errors import BundleError, ConfigError, InputError
from q8bert.tasks.glue import glue_task

ROWS = {wanted.name: wanted.n_rows for wanted in SUBMISSION_FILES}
WORDS = ("good", "bad", "great", "dull", "film", "plot", "very")


def text(number: int) -> str:
    return " ".join(WORDS[(number // 7**place) % 7] for place in range(1 + number % 5))


def write_rows(folder: Path, columns: tuple[str, ...], n_rows: int, name: str = "test.tsv") -> list[tuple[str, ...]]:
    """Write a test file in GLUE's layout; returns its texts."""
    rows = [tuple(text(number + 3 * at) for at in range(len(columns))) for number in range(n_rows)]
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(("index", *columns)), *("\t".join((str(at), *row)) for at, row in enumerate(rows))]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows


def tables(path: Path) -> dict[str, list[list[str]]]:
    with zipfile.ZipFile(path) as archive:
        return {
            name: list(csv.reader(io.StringIO(archive.read(name).decode()), delimiter="\t"))
            for name in archive.namelist()
        }


@pytest.fixture
def glue(tmp_path: Path) -> Mapping[str, Any]:
    """A folder with the test rows of SST-2 and STS-B, and their texts."""
    folder = tmp_path / "GLUE"
    return {
        "folder": folder,
        "SST-2": [row[0] for row in write_rows(folder / "SST-2", ("sentence",), 1821)],
        "STS-B": write_rows(folder / "STS-B", ("sentence1", "sentence2"), 1379),
    }


def test_tables_hold_what_the_bundles_answer_and_the_others_one_answer(
    small: Any, glue: Mapping[str, Any], tmp_path: Path, sentiment: Classifier, similarity: Classifier
) -> None:
    shown = list[tuple[int, int]]()
    output = tmp_path / "submission.zip"
    bundles = [small.bundle("STS-B", "float32"), small.bundle("SST-2", "int8")]
    report = submit(
        bundles, glue["folder"], output, allow_missing=True, threads=1, show_progress=lambda *of: shown.append(of)
    )
    found = tables(output)
    assert list(found) == list(ROWS)
    for name, (header, *rows) in found.items():
        assert header == ["index", "prediction"], name
        assert [index for index, _ in rows] == [str(index) for index in range(ROWS[name])], name
    codes = {"negative": "0", "positive": "1"}
    expected = [codes[str(one.label)] for one in sentiment(glue["SST-2"])]
    assert {"0", "1"} <= set(expected)
    assert [cell for _, cell in found["SST-2.tsv"][1:]] == expected
    scores = [float(one.score or 0.0) for one in similarity(glue["STS-B"])]
    assert [cell for _, cell in found["STS-B.tsv"][1:]] == [f"{max(0.0, min(5.0, score)):.3f}" for score in scores]
    assert {cell for _, cell in found["MNLI-mm.tsv"][1:]} == {"entailment"}

    assert not report.is_complete
    by_name = {file.name: file for file in report.files}
    assert (by_name["SST-2.tsv"].bundle, by_name["SST-2.tsv"].constant) == (str(bundles[1]), "")
    assert (by_name["QQP.tsv"].bundle, by_name["QQP.tsv"].constant) == ("", "0")
    assert by_name["AX.tsv"].lacked == "no bundle of MNLI"
    assert shown[-1] == (1821 + 1379, 1821 + 1379)


def test_what_lacks_is_named_and_nothing_is_written(small: Any, glue: Mapping[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "submission.zip"
    with pytest.raises(InputError, match=r"all 11 tables.*CoLA.tsv: no bundle of CoLA;.*--allow-missing") as caught:
        submit([small.bundle("SST-2", "int8")], glue["folder"], output)
    assert "SST-2.tsv" not in str(caught.value)
    shutil.rmtree(glue["folder"] / "SST-2")
    with pytest.raises(InputError, match=r"SST-2.tsv: no test rows of SST-2 in .*GLUE"):
        submit([small.bundle("SST-2", "int8")], glue["folder"], output, allow_missing=True)
    with pytest.raises(InputError, match=r"data folder .*nowhere does not exist"):
        submit([small.bundle("SST-2", "int8")], tmp_path / "nowhere", output)
    assert not output.exists()


def test_a_test_file_that_is_not_whole_is_refused_also_where_others_may_lack(
    small: Any, glue: Mapping[str, Any], tmp_path: Path
) -> None:
    write_rows(glue["folder"] / "SST-2", ("sentence",), 1820)
    with pytest.raises(InputError, match=r"has 1820 rows, and the leaderboard asks for 1821 in SST-2.tsv"):
        submit([small.bundle("SST-2", "int8")], glue["folder"], tmp_path / "submission.zip", allow_missing=True)


def test_bundles_that_the_leaderboard_has_no_place_for_are_named_together(
    small: Any, glue: Mapping[str, Any], tmp_path: Path, altered: Callable[..., Path]
) -> None:
    def make(**change: Any) -> Path:
        made = altered(small.bundle("SST-2", "int8"), change=lambda manifest: manifest["task"].update(change))
        target = tmp_path / f"bundle-{len(list(tmp_path.glob('bundle-*')))}"
        return Path(shutil.move(made, target))

    bundles = [
        small.bundle("SST-2", "int8"), small.bundle("SST-2", "float32"), make(name="reviews"),
        make(labels=["bad", "good"]),
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        submit(bundles, glue["folder"], tmp_path / "submission.zip", allow_missing=True)
    twice, stranger, otherwise = caught.value.faults
    assert twice.endswith("are both bundles of SST-2; give one of them")
    assert "is a bundle of reviews, which is no task that the leaderboard" in stranger
    assert otherwise.endswith("has the labels ['bad', 'good'], and SST-2 ['negative', 'positive']")
    with pytest.raises(ConfigError, match="no bundle was given"):
        submit([], glue["folder"], tmp_path / "submission.zip")
    with pytest.raises(BundleError):
        submit([tmp_path], glue["folder"], tmp_path / "submission.zip")


def test_labels_in_another_order_are_found_by_their_names(
    small: Any, glue: Mapping[str, Any], tmp_path: Path, altered: Callable[..., Path], sentiment: Classifier
) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        manifest["task"] = {**glue_task("SST-2").to_json(), "labels": ["positive", "negative"], "label_codes": []}

    submit(
        [altered(small.bundle("SST-2", "int8"), change=swap)], glue["folder"], tmp_path / "submission.zip",
        allow_missing=True, threads=1,
    )  # fmt: skip
    swapped = {"negative": "1", "positive": "0"}  # each output has the other's name now
    cells = [cell for _, cell in tables(tmp_path / "submission.zip")["SST-2.tsv"][1:]]
    assert cells == [swapped[str(one.label)] for one in sentiment(glue["SST-2"])]


def test_an_output_that_cannot_be_or_is_something_else_is_refused(
    small: Any, glue: Mapping[str, Any], tmp_path: Path
) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    for output, message in (
        (letter, "what stands there is no zip file"),
        (tmp_path, "it is no ordinary file"),
        (tmp_path / "none" / "submission.zip", "the folder .* does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            submit([small.bundle("SST-2", "int8")], glue["folder"], output, allow_missing=True)
    assert letter.read_text() == "dear"


def test_the_command_says_what_holds_no_predictions(
    small: Any, glue: Mapping[str, Any], tmp_path: Path, command: Callable[..., Result]
) -> None:
    output = tmp_path / "submission.zip"
    given = ("submit", small.bundle("SST-2", "int8"), "--data-dir", glue["folder"], "--output-file", output)
    refused = command(*given)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "error: the leaderboard takes all 11 tables together" in refused.stderr
    done = command(*given, "--allow-missing", "--threads", 1, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [file["name"] for file in report["files"]] == list(ROWS)
    assert (report["output"], report["is_complete"]) == (str(output), False)
    assert "warning: CoLA.tsv, MRPC.tsv, STS-B.tsv, QQP.tsv, MNLI-m.tsv" in done.stderr
    shown = command(*given, "--allow-missing", "--threads", 1)
    assert (shown.exit_code, "GLUE submission" in shown.stdout) == (0, True)
