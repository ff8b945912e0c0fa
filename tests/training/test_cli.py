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


def test_every_field_is_an_option_or_a_group() -> None:
    owners = {owner for owner, _, _ in flat_fields(TrainConfig)}
    bare = [field.name for owner in owners for field in fields(owner) if not field.metadata]
    assert bare == ["task"]


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
