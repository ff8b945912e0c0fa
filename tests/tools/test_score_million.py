"""The tool that scores many rows within a limit of memory: it counts, compares, and fails where the limit is too low."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "score_million.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's"),
]


def run(bundle: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, TOOL, bundle, folder, "--rows", "5000", "--threads", "1", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_rows_are_scored_within_the_limit(small: Any, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
    done = run(small.bundle("SST-2", "int8"), tmp_path, "--format", form)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"5,000 rows as {form} ")
    assert "200 labels compared, all rows in order" in done.stdout


def test_a_limit_that_is_too_low_is_a_failure(small: Any, tmp_path: Path) -> None:
    done = run(small.bundle("SST-2", "int8"), tmp_path, "--memory-mb", "16")
    assert done.returncode != 0
    assert done.stdout == ""
