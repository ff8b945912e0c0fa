"""Fixtures that tests of all parts share: the small trained models, and real GLUE data where there is any."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from q8bert.spec.files import write_bytes

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Small:
    """What tools/make_test_bundles.py made: data, a model, runs and bundles of SST-2 and STS-B."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    def data(self, task: str) -> Path:
        return self.root / "data" / task

    def run(self, task: str, precision: str) -> Path:
        return self.root / task / f"{precision}-run"

    def bundle(self, task: str, precision: str) -> Path:
        return self.root / task / precision


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests neither use nor fill the user's cache; all workers of a test run share one, for building a graph takes seconds."""
    root = tmp_path_factory.getbasetemp()
    cache = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield cache


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, cache_of_its_own: Path) -> Small:
    """Small trained models; made once, or taken from Q8BERT_TEST_BUNDLES, and their training graphs with them."""
    if given := os.environ.get("Q8BERT_TEST_BUNDLES"):
        made = Small(Path(given).resolve())
        graphs = cache_of_its_own / "q8bert" / "graphs"
        graphs.mkdir(parents=True, exist_ok=True)
        for entry in (made.root / "graphs").glob("*.zip"):
            write_bytes(graphs / entry.name, entry.read_bytes())
        return made
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs bundles: torch is not installed and Q8BERT_TEST_BUNDLES is not set")
    target = tmp_path_factory.mktemp("bundles")
    subprocess.run([sys.executable, ROOT / "tools" / "make_test_bundles.py", target], check=True)
    return Small(target)


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Folder of the real GLUE data."""
    given = os.environ.get("GLUE_DIR")
    if not given:
        pytest.skip("needs real GLUE data: GLUE_DIR is not set")
    return Path(given)


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mount something for the length of a test; the test is skipped where this process may not."""
    mounted: list[Path] = []

    def do(target: Path, *options: object) -> None:
        if shutil.which("mount") is None:
            pytest.skip("needs mount")
        done = subprocess.run(["mount", *map(str, options), target], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
        if not any("remount" in str(option) for option in options):
            mounted.append(target)

    yield do
    for target in reversed(mounted):
        subprocess.run(["umount", target], check=True)
