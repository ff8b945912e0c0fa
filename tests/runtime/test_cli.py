"""The command line: one JSON object, exit codes that mean something."""

import errno
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from typer.testing import Result

COMMANDS = ("train", "export", "evaluate", "predict", "score", "submit", "verify", "bench")
Q8BERT = Path(sys.executable).with_name("q8bert")


def script(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed console script."""
    return subprocess.run(
        [Q8BERT, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a great and funny film"}\n{"text": "a tired , dull story"}\n', encoding="utf-8")
    return path


# ---- the application ----------------------------------------------------------------------------


def test_help_lists_every_command() -> None:
    done = script("--help")
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(command: Callable[..., Result], name: str) -> None:
    result = command(name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_the_application_is_built_without_anything_heavy() -> None:
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "scipy", "sklearn"}
    code = (
        "import sys; from q8bert.runtime.cli import build_app; build_app(); "
        f"print(sorted({heavy!r} & set(sys.modules)), 'q8bert.training.cli' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_version_is_that_of_the_distribution(command: Callable[..., Result]) -> None:
    result = command("--version")
    assert (result.exit_code, result.stdout) == (0, f"q8bert {version('q8bert')}\n")


def test_no_command_and_unknown_commands_and_options_are_wrong_use(command: Callable[..., Result]) -> None:
    assert command().exit_code == 2
    assert command("no-such-command").exit_code == 2
    assert command("evaluate").exit_code == 2
    assert command("predict", "x", "--input", "a", "--output", "b", "--batch-size", 0).exit_code == 2
    assert command("predict", "x", "--input", "a", "--output", "b", "--threads", -1).exit_code == 2


# ---- one JSON object ----------------------------------------------------------------------------


def test_evaluate_prints_one_json_object(small: Any, command: Callable[..., Result]) -> None:
    data = small.data("SST-2")
    result = command("evaluate", small.bundle("SST-2", "int8"), "--data-dir", data, "--threads", 1, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["task"], report["n_rows"], report["main_metric"]) == ("SST-2", 200, "accuracy")
    assert set(report["metrics"]) == {"accuracy"}


def test_the_script_predicts_and_prints_one_json_object(small: Any, rows: Path) -> None:
    output = rows.with_name("out.jsonl")
    bundle = small.bundle("SST-2", "int8")
    done = script("predict", bundle, "--input", rows, "--output", output, "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "n_rows": 2, "n_skipped": 0, "output": str(output), "skipped": [], "n_truncated": 0,
    }  # fmt: skip
    assert [json.loads(line)["label"] for line in output.read_text().splitlines()] == ["positive", "negative"]


def test_the_script_fails_a_gate_with_exit_code_1_and_one_json_object(small: Any) -> None:
    bundle, reference, data = (*(small.bundle("SST-2", kind) for kind in ("int8", "float32")), small.data("SST-2"))
    limits = ("--min-size-ratio", 100, "--max-relative-loss", 1, "--threads", 1)
    done = script("verify", bundle, "--reference", reference, "--data-dir", data, *limits, "--json")
    assert done.returncode == 1
    (failure,) = json.loads(done.stdout)["failures"]
    assert failure.endswith(" is below 100")


def test_a_gate_that_passes_exits_0(small: Any, command: Callable[..., Result]) -> None:
    arguments = (small.bundle("SST-2", "int8"), "--reference", small.bundle("SST-2", "float32"))
    limits = ("--min-size-ratio", 1.5, "--max-relative-loss", 0.1, "--threads", 1)
    result = command("verify", *arguments, "--data-dir", small.data("SST-2"), *limits, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["passed"] is True


def test_without_json_people_get_points_and_a_verdict(small: Any, command: Callable[..., Result]) -> None:
    bundle, data = small.bundle("SST-2", "int8"), small.data("SST-2")
    points = 100 * json.loads(command("evaluate", bundle, "--data-dir", data, "--json").stdout)["metrics"]["accuracy"]
    shown = command("evaluate", bundle, "--data-dir", data, "--threads", 1)
    assert shown.exit_code == 0
    assert f"{points:.2f}" in shown.stdout
    assert "SST-2 dev, 200 rows, int8 (11 of 11 products)" in " ".join(shown.stdout.split())
    limits = ("--min-size-ratio", 1, "--max-relative-loss", 1, "--threads", 1)
    gate = command("verify", bundle, "--reference", small.bundle("SST-2", "float32"), "--data-dir", data, *limits)
    assert gate.exit_code == 0
    assert gate.stdout.splitlines()[-1] == "PASSED"


def test_skipped_rows_are_named_on_stderr_and_counted_in_the_json(
    small: Any, rows: Path, command: Callable[..., Result]
) -> None:
    with rows.open("a") as file:
        file.write('{"text": 5}\n')
    bundle = small.bundle("SST-2", "int8")
    arguments = ("predict", bundle, "--input", rows, "--output", rows.with_name("out.jsonl"), "--threads", 1)
    result = command(*arguments, "--skip-malformed", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["n_skipped"] == 1
    assert "rows.jsonl, line 3, column sentence: expected a text, got 5" in result.stderr
    assert "1 malformed rows left out" in result.stderr
    refused = command(*arguments, "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--skip-malformed" in refused.stderr


# ---- exit codes ---------------------------------------------------------------------------------


def test_bad_input_exits_2_with_one_line_and_no_traceback(small: Any, tmp_path: Path) -> None:
    done = script("evaluate", tmp_path, "--data-dir", small.data("SST-2"), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path} is not a bundle")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--provider", "NoProvider"], "execution provider NoProvider was asked for"),
        (["--task", "CoLA"], "task CoLA has the labels"),
        (["--task", "SST-3"], "unknown task 'SST-3'"),
        (["--split", "dev_mismatched"], "for the dev_mismatched split of SST-2"),
        (["--data-dir", "no-such-folder"], "data folder no-such-folder does not exist"),
    ],
)
def test_options_that_do_not_fit_exit_2_and_are_named(
    small: Any, command: Callable[..., Result], options: list[str], message: str
) -> None:
    data = small.data("SST-2")
    result = command("evaluate", small.bundle("SST-2", "int8"), "--data-dir", data, "--threads", 1, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_providers_are_tried_as_asked(small: Any, command: Callable[..., Result]) -> None:
    data = small.data("SST-2")
    arguments = ("evaluate", small.bundle("SST-2", "int8"), "--data-dir", data, "--threads", 1, "--json")
    assert command(*arguments, "--provider", "CPUExecutionProvider").exit_code == 0
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    result = command(*arguments, "--provider", "CUDAExecutionProvider", "--provider", "CPUExecutionProvider")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "CUDAExecutionProvider was asked for" in result.stderr
    assert "CPUExecutionProvider" in result.stderr


def test_an_unexpected_failure_exits_3_with_its_traceback(
    command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr("q8bert.runtime.predict.files.predict_file", fail)
    result = command("predict", "bundle", "--input", "a", "--output", "b", "--json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "ZeroDivisionError: no such luck" in result.stderr
    assert "Traceback" in result.stderr


def test_files_that_cannot_be_used_are_no_defect_of_the_program(
    small: Any, tmp_path: Path, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, output = small.bundle("SST-2", "int8"), tmp_path / "out.jsonl"
    output.write_text("from yesterday")
    result = command("predict", bundle, "--input", tmp_path / "none.tsv", "--output", output)
    assert (result.exit_code, output.read_text()) == (2, "from yesterday")
    assert "none.tsv does not exist or is not a file" in result.stderr

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))

    monkeypatch.setattr("q8bert.runtime.predict.files.predict_file", full)
    result = command("predict", bundle, "--input", "a", "--output", output)
    assert result.exit_code == 2
    assert result.stderr.strip() == f"error: {output}: No space left on device"


def test_an_interruption_is_not_taken_for_a_failed_gate(
    command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("q8bert.runtime.predict.files.predict_file", interrupt)
    assert command("predict", "bundle", "--input", "a", "--output", "b").exit_code not in {0, 1, 2, 3}


def test_a_limit_that_is_not_a_number_does_not_open_the_gate(small: Any, command: Callable[..., Result]) -> None:
    bundle = small.bundle("SST-2", "float32")
    arguments = ("verify", bundle, "--reference", bundle, "--data-dir", small.data("SST-2"), "--threads", 1)
    assert command(*arguments, "--min-size-ratio", "nan").exit_code == 2
    assert command(*arguments, "--min-size-ratio", 1, "--max-relative-loss", "nan").exit_code == 2


def test_a_narrow_encoding_of_stdout_does_not_turn_success_into_failure(small: Any, rows: Path) -> None:
    # a pipe on Windows is cp1252, which has neither an arrow nor ≤
    arguments = ("predict", small.bundle("SST-2", "int8"), "--input", rows, "--output", rows.with_name("out.jsonl"))
    done = script(*arguments, "--threads", 1, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr


# ---- without the train extra --------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="the train extra is installed here")
@pytest.mark.parametrize(
    "arguments",
    [["train", "--task", "RTE", "--data-dir", "data", "--output-dir", "run"], ["export", "run", "--output-dir", "b"]],
    ids=lambda arguments: arguments[0],
)
def test_a_command_whose_extra_is_missing_exits_2_naming_it(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [Q8BERT, *arguments, "--json"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "q8bert[train]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="the train extra is installed here")
@pytest.mark.parametrize(("module", "name"), [("q8bert.training", "train"), ("q8bert.export", "export")])
def test_a_name_whose_extra_is_missing_is_an_import_error_naming_it(module: str, name: str) -> None:
    with pytest.raises(ImportError, match=r'needs .*torch.* pip install "q8bert\[train\]"'):
        getattr(importlib.import_module(module), name)
