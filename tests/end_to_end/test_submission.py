"""A submission of all of GLUE by a tiny model: the leaderboard's names, headers and row counts for every task."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from q8bert.data.submission import SUBMISSION_FILES, test_file
from q8bert.export import export
from q8bert.runtime import submit
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.training import TrainConfig, train

test_file.__test__ = False  # type: ignore[attr-defined]  # a function of ours, by its name

WORDS = ("good", "bad", "great", "dull", "film", "plot", "very")
# file of the zip → its rows and what may stand in them, as the leaderboard asks for
EXPECTED = {
    "CoLA.tsv": (1063, {"0", "1"}), "SST-2.tsv": (1821, {"0", "1"}), "MRPC.tsv": (1725, {"0", "1"}),
    "STS-B.tsv": (1379, set()), "QQP.tsv": (390965, {"0", "1"}),
    "MNLI-m.tsv": (9796, {"entailment", "neutral", "contradiction"}),
    "MNLI-mm.tsv": (9847, {"entailment", "neutral", "contradiction"}),
    "QNLI.tsv": (5463, {"entailment", "not_entailment"}), "RTE.tsv": (3000, {"entailment", "not_entailment"}),
    "WNLI.tsv": (146, {"0", "1"}), "AX.tsv": (1104, {"entailment", "neutral", "contradiction"}),
}  # fmt: skip


def text(number: int) -> str:
    return " ".join(WORDS[(number // 7**place) % 7] for place in range(1 + number % 3))


def mnli_bundle(small: Any, folder: Path) -> Path:
    """Train the tiny model a little on three labels, and export it."""
    labels = glue_task("MNLI").head.labels
    rows = "".join(f"{text(number)}\t{text(number + 1)}\t{labels[number % 3]}\n" for number in range(60))
    data = folder / "MNLI-data"
    data.mkdir()
    for name in ("train.tsv", "dev_matched.tsv"):
        (data / name).write_text(f"sentence1\tsentence2\tgold_label\n{rows}", encoding="utf-8")
    config = TrainConfig.from_options(
        task=glue_task("MNLI"), data_dir=str(data), model=str(small.model), output_dir=folder / "run", engine="torch",
        quantize=False, quantize_from=0.0, max_steps=80, learning_rate=3e-3, max_length=32, threads=1,
    )  # fmt: skip
    return Path(export(train(config).path, folder / "MNLI")[0].path)


def bundles(small: Any, folder: Path) -> list[Path]:
    """A bundle for each task: those of two labels are the one of SST-2 under another name."""
    made = [small.bundle("SST-2", "int8"), small.bundle("STS-B", "int8"), mnli_bundle(small, folder)]
    for name in ("CoLA", "MRPC", "QQP", "QNLI", "RTE", "WNLI"):
        target = folder / name
        shutil.copytree(small.bundle("SST-2", "int8"), target)
        manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
        manifest["task"] = glue_task(name).to_json()
        (target / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        made.append(target)
    return made


def write_test_rows(folder: Path) -> None:
    for wanted in SUBMISSION_FILES:
        data = GLUE_TASKS[wanted.rows_of].data
        columns = [name for name in (data.text_column, data.text_pair_column) if name is not None]
        lines = [
            "\t".join((str(index), *(text(index + at) for at in range(len(columns))))) + "\n"
            for index in range(EXPECTED[wanted.name][0])
        ]
        place = folder / ("diagnostic" if wanted.rows_of == "AX" else wanted.rows_of)
        place.mkdir(exist_ok=True)
        header = "\t".join(("index", *columns))
        (place / data.files.get(wanted.split, "test.tsv")).write_text(f"{header}\n{''.join(lines)}", encoding="utf-8")
        assert test_file(wanted, folder) is not None


@pytest.mark.slow
def test_a_submission_has_the_leaderboards_names_headers_and_row_counts_for_every_task(
    small: Any, tmp_path: Path
) -> None:
    glue = tmp_path / "GLUE"
    glue.mkdir()
    write_test_rows(glue)
    report = submit(bundles(small, tmp_path), glue, tmp_path / "submission.zip", threads=1, batch_size=256)
    assert report.is_complete
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert sorted(archive.namelist()) == sorted(EXPECTED)
        for name, (n_rows, answers) in EXPECTED.items():
            header, *rows = csv.reader(io.StringIO(archive.read(name).decode("ascii")), delimiter="\t")
            assert header == ["index", "prediction"], name
            assert [row[0] for row in rows] == [str(index) for index in range(n_rows)], name
            found = {row[1] for row in rows}
            if answers:
                assert found <= answers, name
            else:
                assert all(len(cell.partition(".")[2]) == 3 and 0 <= float(cell) <= 5 for cell in found), name
            assert len(found) > 1, f"{name}: the tiny model tells rows apart"
