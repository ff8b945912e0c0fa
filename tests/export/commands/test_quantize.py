"""The command `quantize`: what it prints, and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from q8bert.runtime.cli import build_app


@pytest.mark.slow
def test_it_exits_1_where_a_limit_is_passed_and_names_layers(small: Any, tmp_path: Path) -> None:
    arguments = [
        "quantize",
        str(small.run("SST-2", "float32")),
        "--output-dir",
        str(tmp_path / "bundle"),
        "--no-parity",
    ]
    done = CliRunner().invoke(build_app(), [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["comparison"]["split"] == "dev"
    assert f"next: q8bert predict {report['bundle']}" in done.stderr
    done = CliRunner().invoke(build_app(), [*arguments, "--max-logit-error", "1e-9"])
    assert done.exit_code == 1
    assert "FAILED: relative error" in done.stdout
    assert "q8bert train" in done.stderr
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def test_wrong_use_exits_2(small: Any, tmp_path: Path) -> None:
    run, target = str(small.run("SST-2", "float32")), str(tmp_path / "bundle")
    for more, message in (
        (["--task", "SST-2", "--task-file", "x.toml"], "give either --task with a GLUE name or --task-file"),
        (["--task", "SST-2"], "is a run, which has its own"),
        (["--keep-float", "nothing.*"], "keep_float: no layer matches nothing.*"),
        (["--calibration-data", str(tmp_path / "none.tsv")], "does not exist or is not a file"),
    ):
        done = CliRunner().invoke(build_app(), ["quantize", run, "--output-dir", target, *more])
        assert done.exit_code == 2, done.stderr
        assert message in done.stderr
    assert not Path(target).exists()
