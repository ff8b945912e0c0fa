"""The options of the command are those of the configuration and its groups, each said once."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from q8bert import training
from q8bert.runtime.cli import build_app
from q8bert.training.options import flat_fields
from q8bert.training.runs.config import TrainConfig


def test_every_option_is_on_the_command_line_with_its_help() -> None:
    shown = " ".join(CliRunner().invoke(build_app(), ["train", "--help"]).stdout.split())
    known = list(flat_fields(TrainConfig))
    names = [field.name for _, field, _ in known]
    assert len(set(names)) == len(names)
    for name in names:
        assert f"--{name.replace('_', '-')} " in shown
    # Click breaks words at hyphens, so help is compared without spaces
    letters = shown.replace(" ", "")
    assert not [field.name for _, field, option in known if option.help.replace(" ", "") not in letters]


def sections(command: str) -> dict[str, list[str]]:
    """The help of a command at 80 columns: heading → its flags."""
    shown = CliRunner().invoke(build_app(), [command, "--help"], env={"COLUMNS": "80"}).stdout
    assert max(len(line) for line in shown.splitlines()) <= 80
    found: dict[str, list[str]] = {}
    for line in shown.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            flags = found.setdefault(line[:-1], [])
        elif line.startswith("  --"):
            flags.append(line.split()[0])
    return found


def test_help_stands_in_groups_with_the_options_first_that_most_runs_are_given() -> None:
    found = sections("train")
    assert list(found) == [
        "Main options", "Data", "Model", "Quantization", "Distillation", "Optimization", "Evaluation", "Output", "Hardware", "Options",
    ]  # fmt: skip
    assert found["Main options"] == [
        "--task", "--task-file", "--preset", "--data-dir", "--output-dir", "--model", "--max-length", "--quantize", "--epochs",
        "--batch-size", "--learning-rate",
    ]  # fmt: skip
    assert found["Options"] == ["--help"]
    flags = [flag for group in found.values() for flag in group]
    assert len(set(flags)) == len(flags)
    assert {"--quantize-from", "--cache-dir", "--json", "--overwrite"} <= set(flags)


def test_every_field_is_an_option_or_a_group() -> None:
    owners = {owner for owner, _, _ in flat_fields(TrainConfig)}
    bare = [field.name for owner in owners for field in fields(owner) if not field.metadata]
    assert bare == ["task"]


def test_wrong_options_are_named_together_before_torch_is_loaded(tmp_path: Path) -> None:
    done = CliRunner().invoke(build_app(), [
        "train", "--task", "RTE", "--data-dir", "", "--output-dir", str(tmp_path), "--epochs", "0", "--end-learning-rate", "1",
    ])  # fmt: skip
    assert done.exit_code == 2
    faults = [line.removeprefix("error: ").partition(" ")[0] for line in done.stderr.splitlines()]
    assert sorted(faults) == ["data_dir", "end_learning_rate", "epochs"]


def test_what_is_given_reaches_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[TrainConfig] = []

    def stop(config: TrainConfig, **_: Any) -> None:
        told.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop, raising=False)
    CliRunner().invoke(build_app(), [
        "train", "--task", "RTE", "--data-dir", "x", "--output-dir", str(tmp_path), "--no-quantize", "--epochs", "7",
        "--skip-malformed", "--cache-dir", "y", "--precision", "bfloat16", "--engine", "torch",
    ])  # fmt: skip
    CliRunner().invoke(build_app(), [
        "train", "--task", "RTE", "--data-dir", "x", "--output-dir", str(tmp_path), "--keep-float", "a", "--keep-float", "b",
    ])  # fmt: skip
    first, second = told
    assert (first.quantization.quantize, first.optimization.epochs, first.skip_malformed) == (False, 7, True)
    assert (first.execution.cache_dir, first.execution.precision) == (Path("y"), "bfloat16")
    assert first.quantization.keep_float == ()
    assert second.quantization.keep_float == ("a", "b")
