"""Fixtures of the training tests."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def small_model(small: Any) -> Path:
    """Folder of the tiny BERT in Hugging Face's layout."""
    model: Path = small.model
    return model
