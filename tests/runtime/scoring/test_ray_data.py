"""A real Ray on this machine: the same outputs as one process, and an engine that is killed costs nothing."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from q8bert.runtime import ScoreReport, score_files
from q8bert.runtime.scoring.ray_data import _connect
from q8bert.spec.errors import BundleError, ConfigError, InputError

ray = pytest.importorskip("ray", reason="needs the extra ray")
pa = pytest.importorskip("pyarrow", reason="needs the extra ray")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra ray")
pytest.importorskip("ray.data", reason="needs the extra ray")

pytestmark = [
    pytest.mark.slow,
    # Ray warns of its own settings, and leaves sockets and pipes to the collector
    pytest.mark.filterwarnings("ignore:::ray.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two cores' worth of Ray, without a dashboard and without reports to anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # sockets have short names
        place = Path(tempfile.mkdtemp(prefix="q8bert-"))
        ray.init(
            address="local", num_cpus=2, object_store_memory=160 << 20, include_dashboard=False,
            log_to_driver=False, logging_level="warning", _temp_dir=str(place),
        )  # fmt: skip
        yield
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def inputs(tmp_path: Path, write_lines: Write, write_csv: Write) -> Path:
    """Files of every format, one of several units, one without rows."""
    folder = tmp_path / "in"
    words = ["good", "bad", "dull", "great film", "Ünïcode 🤖", ""]
    write_lines(folder / "a.jsonl", [{"text": f"{words[at % 6]} {at}", "at": at} for at in range(40_000)])
    write_csv(folder / "b.csv", ["id", "sentence"], [[at, f"{words[at % 6]}\n{at}"] for at in range(5000)])
    write_csv(folder / "empty.csv", ["sentence"], [])
    table = pa.table({"sentence": [words[at % 6] * (at % 7) for at in range(40_000)], "at": range(40_000)})
    (folder / "deep").mkdir()
    pq.write_table(table, folder / "deep" / "c.parquet")
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "_q8bert" not in path.parts
    }


@pytest.fixture
def one_process(small: Any, inputs: Path, tmp_path: Path) -> tuple[ScoreReport, dict[str, bytes]]:
    report = score_files(small.bundle("SST-2", "int8"), inputs, tmp_path / "alone", threads=1)
    return report, outputs(tmp_path / "alone")


@pytest.mark.usefixtures("cluster")
def test_outputs_are_equal_byte_for_byte_and_a_killed_engine_costs_nothing(
    small: Any, inputs: Path, tmp_path: Path, one_process: tuple[ScoreReport, dict[str, bytes]]
) -> None:
    killed: list[int] = []
    size = ray.data.DataContext.get_current().target_max_block_size

    def kill_one(now: Any) -> None:
        if not killed and now.n_rows > 8000:
            killed.append(pid_of_an_engine())
            os.kill(killed[0], signal.SIGKILL)

    report = score_files(
        small.bundle("SST-2", "int8"), inputs, tmp_path / "out", threads=1, ray="local", show_progress=kill_one
    )
    assert killed
    assert ray.data.DataContext.get_current().target_max_block_size == size, "settings of the process come back"
    alone, expected = one_process
    assert outputs(tmp_path / "out") == expected
    assert (report.n_files, report.n_rows, report.n_truncated) == (4, 85_000, alone.n_truncated)
    assert ray.is_initialized(), "a Ray that was there before stays"
    again = score_files(small.bundle("SST-2", "int8"), inputs, tmp_path / "out", threads=1)
    assert (again.n_kept, again.n_scored) == (4, 0), "either way may go on with the other's work"


def pid_of_an_engine() -> int:
    """Return the process of an actor that scores: Linux names it as Ray does."""
    for _ in range(100):
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    words = (process / "cmdline").read_bytes()
                    mine = b"ray::" in words and b"MapWorker" in words and belongs_to_us(int(process.name))
                except OSError:
                    continue
                if mine:
                    return int(process.name)
        time.sleep(0.1)
    raise AssertionError("no engine was found")


def belongs_to_us(pid: int) -> bool:
    """Whether a process descends from this one: other tests may have a Ray of their own."""
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.mark.usefixtures("cluster")
def test_faults_are_those_of_one_process(
    small: Any, tmp_path: Path, write_lines: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small.bundle("SST-2", "int8")
    monkeypatch.chdir(tmp_path)  # engines work in another folder
    source = write_lines(Path("rows.jsonl"), [{"text": "good"}, {"txt": "bad"}])
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2: column text: a text is missing"):
        score_files(bundle, source, tmp_path / "out", ray="local")
    assert outputs(tmp_path / "out") == {}
    report = score_files(bundle, source, tmp_path / "skipping", ray="local", skip_malformed=True)
    assert (report.n_rows, report.n_malformed) == (2, 1)
    with pytest.raises(ConfigError, match=r"no Ray cluster could be joined at '127\.0\.0\.1:1': .*refused"):
        _connect(ray, "127.0.0.1:1")
    with pytest.raises(ConfigError, match="has not the 64 CPU that an engine needs"):
        score_files(bundle, source, tmp_path / "out", ray="local", threads=64)


@pytest.mark.usefixtures("cluster")
def test_a_bundle_that_no_engine_can_load_is_an_error_and_no_endless_start(
    small: Any, altered: Callable[..., Path], tmp_path: Path, write_lines: Write
) -> None:
    def wide(manifest: dict[str, Any]) -> None:
        manifest["task"]["labels"] = ["a", "b", "c"]
        manifest["task"]["label_codes"] = []

    source = write_lines(tmp_path / "rows.jsonl", [{"text": "good"}])
    with pytest.raises(BundleError, match="needs a width of 3"):
        score_files(altered(small.bundle("SST-2", "int8"), change=wide), source, tmp_path / "out", ray="local")
