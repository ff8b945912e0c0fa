"""Fixtures that tests of all parts share: the small trained models, and real GLUE data where there is any."""

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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


def encoded_tf_example(columns: Mapping[str, Sequence[object]]) -> bytes:
    """``tf.train.Example`` in protobuf's wire format, by hand: int64 lists of ints, float lists of floats, else bytes."""

    def varint(number: int) -> bytes:
        number %= 2**64
        digits = [number >> shift & 127 for shift in range(0, max(1, number.bit_length()), 7)]
        return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    def feature(values: Sequence[object]) -> bytes:
        if all(isinstance(value, int | np.integer) for value in values):
            return field(3, field(1, b"".join(varint(int(value)) for value in values)))
        if all(isinstance(value, float) for value in values):
            return field(2, field(1, b"".join(struct.pack("<f", value) for value in values)))
        return field(1, b"".join(field(1, value) for value in values))

    entries = [field(1, field(1, name.encode()) + field(2, feature(values))) for name, values in columns.items()]
    return field(1, b"".join(entries))


@pytest.fixture(scope="session")
def write_tf_records() -> Callable[[Path, Sequence[Mapping[str, Sequence[object]] | bytes]], Path]:
    """Write a TFRecord file by TensorBoard's own writer, TensorFlow's layout in Python."""
    module = pytest.importorskip("tensorboard.summary.writer.record_writer", reason="needs TensorBoard's record writer")

    def write(path: Path, records: Sequence[Mapping[str, Sequence[object]] | bytes]) -> Path:
        with path.open("wb") as file:
            writer = module.RecordWriter(file)
            for record in records:
                writer.write(record if isinstance(record, bytes) else encoded_tf_example(record))
            writer.flush()
        return path

    return write


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
