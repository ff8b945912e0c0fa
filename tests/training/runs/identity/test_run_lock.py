"""One process writes in a run's folder; no crash leaves it locked."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from q8bert.spec.errors import CheckpointError, OutputError
from q8bert.training.runs.identity import run_lock as module
from q8bert.training.runs.identity.run_lock import run_lock

HOLDER = """
import sys, time
from pathlib import Path
from q8bert.training.runs.identity.run_lock import run_lock
with run_lock(Path(sys.argv[1]), print):
    Path(sys.argv[1], "run.json").touch()
    print("held", flush=True)
    time.sleep(60)
"""


def silent(sentence: str) -> None:
    pytest.fail(sentence)


def test_another_process_is_refused_by_name_until_it_is_gone_even_by_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = (
            rf"run is being trained by process {holder.pid} on {socket.gethostname()}\. Wait.*another --output-dir"
        )
        for _ in range(2):  # the first refusal does not spoil the words for the second
            with pytest.raises(CheckpointError, match=message), run_lock(folder, silent):
                pytest.fail("two processes are in one folder")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run_lock(folder, silent):
        assert json.loads((folder / "run.lock").read_text())["process"] == os.getpid()
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_of_many_at_once_one_gets_in(tmp_path: Path) -> None:
    n_inside, most, n_entered, n_refused, counting = 0, 0, 0, 0, threading.Lock()

    def enter() -> None:
        nonlocal n_inside, most, n_entered, n_refused
        for _ in range(200):
            try:
                with run_lock(tmp_path / "run", silent):
                    with counting:
                        n_inside, n_entered = n_inside + 1, n_entered + 1
                        most = max(most, n_inside)
                    os.sched_yield()
                    with counting:
                        n_inside -= 1
            except CheckpointError:
                n_refused += 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, n_inside) == (1, 0)
    assert n_entered > 0 < n_refused


def test_a_new_folder_in_which_nothing_was_written_goes_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), run_lock(tmp_path / "run", silent):
        raise RuntimeError("no data")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    with pytest.raises(RuntimeError), run_lock(tmp_path / "run", silent):
        raise RuntimeError("no data")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_link_to_a_folder_that_is_not_there_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for link, target in (("run", "disk/run"), ("runs", "disk/runs")):
        (tmp_path / link).symlink_to(target)
    for folder, there in (("run", "disk/run"), ("runs/one", "disk/runs/one")):
        with pytest.raises(RuntimeError), run_lock(tmp_path / folder, silent):
            assert (tmp_path / there / "run.lock").is_file()
            raise RuntimeError("no data")
        assert not (tmp_path / there).exists()
        with run_lock(tmp_path / folder, silent):
            (tmp_path / folder / "run.json").touch()
        assert [path.name for path in (tmp_path / there).iterdir()] == ["run.json"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, mount: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"--output-dir .*file is a file"), run_lock(tmp_path / "file", silent):
        pass
    with pytest.raises(OutputError, match="Not a directory"), run_lock(tmp_path / "file" / "run", silent):
        pass
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path / "loop", tmp_path / "loop" / "run"):
        with pytest.raises(OutputError, match="Too many levels of symbolic links"), run_lock(folder, silent):
            pass
    (tmp_path / "volume").mkdir()
    mount(tmp_path / "volume", "-t", "tmpfs", "-o", "ro", "tmpfs")
    for folder in (tmp_path / "volume", tmp_path / "volume" / "run"):
        with pytest.raises(OutputError, match=r"Read-only file system.*may write to"), run_lock(folder, silent):
            pass


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    said: list[str] = []
    with run_lock(tmp_path, said.append):
        pass
    assert said == [f"{tmp_path} is on a file system without locks: nothing keeps a second process out of it"]


def test_a_file_that_its_last_holder_deletes_meanwhile_is_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, n_calls = module._lock, 0

    def delayed(handle: int, path: Path, report: Any) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            path.unlink()
        lock(handle, path, report)

    monkeypatch.setattr(module, "_lock", delayed)
    with run_lock(tmp_path, silent):
        assert (tmp_path / "run.lock").exists()
    assert n_calls == 2
