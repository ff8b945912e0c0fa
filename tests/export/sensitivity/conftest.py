"""A small float run with grids."""

from pathlib import Path
from typing import Any

import pytest

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.post_training.calibration import calibrated
from q8bert.export.post_training.given import Asked, read_given
from q8bert.training.quantization.config import QuantizationConfig


def given_of(run: Path) -> Any:
    asked = Asked(
        model=str(run), rows=None, rows_option="--data", data_dir=None, task=None, revision=None, max_length=None, format=None,
        skip_malformed=False, seed=11,
    )  # fmt: skip
    return read_given(asked, n_calibration=64, n_held_out=48, labelled=True, report=lambda _: None)


@pytest.fixture(scope="session")
def quantized(small: Any) -> tuple[ModelToExport, EncodedRows]:
    """A float run of SST-2 with its grids, one activation of several readers smoothed, and other rows."""
    given = given_of(small.run("SST-2", "float32"))
    model = calibrated(given.model, given.calibration, options=QuantizationConfig(), seed=11)
    return model, given.held_out
