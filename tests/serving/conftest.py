"""Real servers: ``q8bert serve`` for all tests, and every server that speaks the protocol for those of the protocol."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from q8bert.runtime import Classifier

HERE = Path(__file__).parent
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def load(name: str) -> ModuleType:
    """Return a module beside this file, which is in no package."""
    spec = importlib.util.spec_from_file_location(f"serving_{name.replace('/', '_')}", HERE / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ourselves() -> ModuleType:
    """The module that starts ``q8bert serve``."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs the extra serve: {', '.join(missing)} missing")
    return load("servers/ourselves")


@pytest.fixture(scope="session")
def triton() -> ModuleType:
    """The module that starts NVIDIA Triton."""
    module = load("servers/triton")
    module.place()
    return module


@pytest.fixture(scope="session")
def loads() -> ModuleType:
    """The module of clients that ask again and again."""
    return load("load")


@pytest.fixture(scope="session")
def browser() -> ModuleType:
    """The module that drives Chromium."""
    pytest.importorskip("aiohttp")
    module = load("browser")
    if module.executable() is None:
        pytest.skip("needs Chromium, as Debian's package chromium brings it")
    return module


@pytest.fixture(scope="session")
def bundles(small: Any) -> dict[str, Path]:
    """One bundle of each kind: single texts to labels, pairs to a score."""
    return {"sentiment": small.bundle("SST-2", "int8"), "similarity": small.bundle("STS-B", "int8")}


@pytest.fixture(scope="session")
def library(bundles: dict[str, Path]) -> dict[str, Classifier]:
    """The same bundles in this process: what the servers have to answer."""
    return {name: Classifier.load(folder, threads=1) for name, folder in bundles.items()}


@pytest.fixture(scope="module", params=["ourselves", "triton"])
def server(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> Iterator[Any]:
    """A server of each kind that serves both bundles; its ``url`` is host and port.

    The module of a server has ``start(bundles)``, a context manager; its fixture skips where the server cannot be had.
    """
    with request.getfixturevalue(request.param).start(bundles) as running:
        yield running
