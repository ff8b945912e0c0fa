"""Whatever happens to the files of a run: q8bert's own error, or no harm; never another one, never other weights."""

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

N_CASES = int(os.environ.get("Q8BERT_FUZZ_CASES", "600"))


@pytest.fixture(scope="module")
def fuzz_runs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[3] / "tools")
        yield importlib.import_module("fuzz_runs")


@pytest.mark.parametrize("without_checksums", [False, True])
@pytest.mark.parametrize(
    ("first", "n_cases"), [(0, 50), pytest.param(10**6, N_CASES, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_damaged_run_is_refused_or_unharmed(
    small: Any, fuzz_runs: Any, without_checksums: bool, first: int, n_cases: int
) -> None:
    campaign = fuzz_runs.Campaign.of(small.run("SST-2", "int8"), without_checksums=without_checksums)
    found = [(number, *campaign.case(number)) for number in range(first, first + n_cases)]
    faults = [f"case {number}: {done}: {outcome}" for number, done, outcome in found if "FAULT" in outcome]
    assert not faults, "\n".join(faults[:3])
    refused = [outcome for _, _, outcome in found if "Error" in outcome]
    assert len(refused) > n_cases / 4, "the damage does not do much"
