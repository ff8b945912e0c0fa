"""Fixtures of scoring: files of rows, and jobs on small bundles."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from q8bert.runtime import ScoreReport, score_files
from q8bert.runtime.scoring.reading import parquet_files, text_files

TEXTS = ["a great film", "a dull , slow and very empty story", "good", "Ünïcode 🤖", "", 'she said "no"\ntwice']


@pytest.fixture
def job(small: Any, tmp_path: Path) -> Callable[..., ScoreReport]:
    """Score files into ``tmp_path/out`` by the INT8 bundle of SST-2."""

    def run(*inputs: Path, **options: Any) -> ScoreReport:
        options = {"bundle": small.bundle("SST-2", "int8"), "output_dir": tmp_path / "out", "threads": 1, **options}
        return score_files(options.pop("bundle"), inputs, options.pop("output_dir"), **options)

    return run


@pytest.fixture
def write_csv() -> Callable[..., Path]:
    def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]], **style: Any) -> Path:
        text = io.StringIO()
        writer = csv.writer(text, **style)
        writer.writerows([columns, *rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.getvalue().encode())
        return path

    return write


@pytest.fixture
def write_lines() -> Callable[..., Path]:
    def write(path: Path, rows: Sequence[object]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a portion and two portions a unit, so that a short file has many."""
    for module in (text_files, parquet_files):
        monkeypatch.setattr(module, "PORTION_ROWS", 3)
        monkeypatch.setattr(module, "PORTIONS_A_UNIT", 2)
