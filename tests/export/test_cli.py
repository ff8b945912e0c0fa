"""The command `export`: a gate that fails is exit code 1."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from q8bert.export import assembly
from q8bert.runtime.cli import build_app
from q8bert.spec.errors import ParityError


def test_a_failed_comparison_exits_1_and_writes_nothing(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(*_: Any, **__: Any) -> None:
        raise ParityError("the exported model is not the one that was trained", max_abs_diff=1.0, atol=0.001)

    # what `export` would build again, at some seconds' cost
    graph = onnx.load(small.bundle("SST-2", "int8") / "model.onnx")
    monkeypatch.setattr(assembly, "build_graph", lambda *_, **__: graph)
    monkeypatch.setattr(assembly, "compare", differ)
    target = tmp_path / "bundle"
    result = CliRunner().invoke(build_app(), ["export", str(small.run("SST-2", "int8")), "--output-dir", str(target)])
    assert result.exit_code == 1
    assert "is not the one that was trained" in result.stderr
    assert not target.exists()


def test_the_next_command_reads_the_files_as_the_run_did(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load(small.bundle("SST-2", "int8") / "model.onnx")
    monkeypatch.setattr(assembly, "build_graph", lambda *_, **__: graph)
    shutil.copytree(small.run("SST-2", "int8"), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    for given, options in (
        ({}, ""),
        ({"format": "quoted-tsv", "skip_malformed": True}, " --format quoted-tsv --skip-malformed"),
    ):
        record["options"] |= {"data_dir": "rows", **given}
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        arguments = ["export", str(tmp_path / "run"), "--output-dir", str(tmp_path / "bundle"), "--no-parity"]
        result = CliRunner().invoke(build_app(), arguments)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.endswith(f"/rows{options}\n")
