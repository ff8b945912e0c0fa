"""The command `export`: a gate that fails is exit code 1."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from q8bert.export import exporter
from q8bert.runtime.cli import build_app
from q8bert.spec.errors import ParityError


def test_a_failed_comparison_exits_1_and_writes_nothing(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(*_: Any, **__: Any) -> None:
        raise ParityError("the exported model is not the one that was trained", max_abs_diff=1.0, atol=0.001)

    # what `export` would build again, at some seconds' cost
    graph = onnx.load(small.bundle("SST-2", "int8") / "model.onnx")
    monkeypatch.setattr(exporter, "build_graph", lambda *_, **__: graph)
    monkeypatch.setattr(exporter, "compare", differ)
    target = tmp_path / "bundle"
    result = CliRunner().invoke(build_app(), ["export", str(small.run("SST-2", "int8")), "--output-dir", str(target)])
    assert result.exit_code == 1
    assert "is not the one that was trained" in result.stderr
    assert not target.exists()
