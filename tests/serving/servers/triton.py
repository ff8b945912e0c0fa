"""NVIDIA Triton in a process of its own, as tools/pip_triton.py runs it.

``Q8BERT_TRITON`` is the folder of an environment that has it; `make test-triton` makes one and sets it.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[3] / "tools" / "pip_triton.py"


def tool() -> ModuleType:
    """Return the module that runs Triton."""
    if TOOL.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[TOOL.stem] = module
        spec.loader.exec_module(module)
    return sys.modules[TOOL.stem]


def place() -> Any:
    """Return where Triton is; a test that needs it is skipped where it is not."""
    if not (given := os.environ.get("Q8BERT_TRITON")):
        pytest.skip("needs NVIDIA Triton: Q8BERT_TRITON names no environment; `make test-triton` makes one")
    found = tool().Place(Path(given).resolve())
    if lack := found.lack():
        pytest.skip(f"needs NVIDIA Triton: {lack}")
    return found


def write(repository: Path, bundles: Mapping[str, Path], *options: object) -> None:
    """Run ``q8bert triton``."""
    named = [f"{name}={folder}" for name, folder in bundles.items()]
    command = [sys.executable, "-c", "from q8bert.runtime.cli import main; main()", "triton", *named]
    subprocess.run([*command, "--output-dir", repository, *map(str, options)], check=True, capture_output=True)


@contextmanager
def start(bundles: Mapping[str, Path], *options: object) -> Iterator[Any]:
    """Write a repository of bundles, and run Triton on it for the length of the block."""
    place()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        write(repository, bundles, "--backend", "python", *options)
        with run(repository) as running:
            yield running


@contextmanager
def run(repository: Path, *options: object, until: str = "ready") -> Iterator[Any]:
    """Run Triton on a repository that is there."""
    with tool().run(place(), repository, *options, until=until) as running:
        yield running
