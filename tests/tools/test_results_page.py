"""The tables of README and of the page of results are those that the tool prints of the files in `results`."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_LAST_DIGIT = 0.0101  # another CPU may sum to the other side of a half


def words_and_numbers(line: str) -> tuple[str, list[float]]:
    return _NUMBER.sub("#", line), [float(number) for number in _NUMBER.findall(line)]


@pytest.fixture(scope="module")
def printed() -> Mapping[str, list[list[float]]]:
    """Return the lines of the tables that the page says its command prints: words → numbers of each such line."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"--table results/glue --source ([0-9a-f]+)", page)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        table: Any = importlib.import_module("reproduction.table")
        record: Any = importlib.import_module("reproduction.record")
    found: dict[str, list[list[float]]] = {}
    for line in table.render(table.of_one_code(record.read_results(ROOT / "results" / "glue"), source)).splitlines():
        words, numbers = words_and_numbers(line)
        found.setdefault(words, []).append(numbers)
    return found


@pytest.mark.parametrize(("name", "heading"), [("docs/results.md", "# Results"), ("README.md", "## Results")])
def test_every_line_of_a_table_is_the_tools(printed: Mapping[str, list[list[float]]], name: str, heading: str) -> None:
    after = (ROOT / name).read_text(encoding="utf-8").split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in after.splitlines() if line.startswith("|")]
    assert len(lines) > 5
    for line in lines:
        words, numbers = words_and_numbers(line)
        assert any(numbers == pytest.approx(those, abs=_LAST_DIGIT) for those in printed.get(words, [])), line
