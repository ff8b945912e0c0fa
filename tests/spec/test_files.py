"""Files are there whole, or as they were."""

import errno
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from q8bert.spec.errors import OutputError
from q8bert.spec.files import new_file, read_json, write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_json_with_nan_is_refused_and_the_old_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": math.nan})
    assert read_json(path) == {"a": 1}
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_json(path)
    path.write_text('{"a":' * 100_000)
    with pytest.raises(ValueError, match="brackets without end"):
        read_json(path)


def test_a_file_appears_when_it_is_complete_and_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with new_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError, match="crash"), new_file(path) as file:
        file.write(b"half")
        raise RuntimeError("crash")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["x"]


def test_what_a_link_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x")
    write_text(tmp_path / "link", "a")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "x").read_text() == "a"


def test_links_in_a_circle_are_no_place(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OutputError, match=r"a cannot be written \(Too many levels of symbolic links"):
        write_text(tmp_path / "a", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_two_containers_with_the_same_process_number_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "x"
    with new_file(path) as first:
        first.write(b"first, ")
        with new_file(path) as second:
            second.write(b"second")
        assert path.read_text() == "second"
        first.write(b"whole")
    assert path.read_text() == "first, whole"
    assert names(tmp_path) == ["x"]


def test_a_partial_file_that_stands_there_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as someone might lay a link for us in a folder that all may write to
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    (tmp_path / f"x.{'0' * 16}.partial").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="File exists"):
        write_text(tmp_path / "x", "new")
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_a_crash_left_is_deleted_when_no_process_can_still_be_at_it(tmp_path: Path) -> None:
    yesterday = time.time() - 25 * 60 * 60
    for name, when in (
        (f"x.{'a' * 16}.partial", yesterday),
        (f"x.{'b' * 16}.partial", time.time()),
        (f"y.{'a' * 16}.partial", yesterday),
        ("x.mine.partial", yesterday),
    ):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (when, when))
    write_text(tmp_path / "x", "new")
    assert names(tmp_path) == sorted(["x", f"x.{'b' * 16}.partial", f"y.{'a' * 16}.partial", "x.mine.partial"])


@pytest.mark.skipif(os.name == "nt", reason="Windows flushes no folders")
def test_content_and_then_its_name_are_put_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    flushed: list[tuple[str, list[str]]] = []

    def fsync(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        if not is_folder:  # Windows flushes only what may be written
            assert fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        flushed.append(("folder" if is_folder else "file", names(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "x", "new")
    assert [what for what, _ in flushed] == ["file", "folder"]
    assert flushed[1][1] == ["x"]


def test_what_the_system_says_becomes_an_error_with_place_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    for number, remedy in (
        (errno.ENOSPC, "Make room and give the same command again"),
        (errno.EDQUOT, "Make room"),
        (errno.EACCES, "Give a place that this user may write to"),
        (errno.EIO, "Give another place, or mend this one"),
    ):
        reason = os.strerror(number)

        def fail(handle: int, number: int = number, reason: str = reason) -> None:
            raise OSError(number, reason)

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match=rf"{re.escape(str(path))} cannot be written \({reason}\)\. {remedy}"):
            write_text(path, "new")
        assert path.read_text() == "old"
        assert names(tmp_path) == ["x"]


def test_a_folder_that_is_missing_or_a_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere.x cannot be written \(No such file or directory"):
        write_text(tmp_path / "nowhere" / "x", "")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.x cannot be written \(Not a directory"):
        write_text(tmp_path / "file" / "x", "")


# ---- files that cannot be replaced --------------------------------------------------------------


@pytest.fixture(params=["patched", "mounted"])
def single_file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A file that was mounted by itself, as ``docker -v file:file`` does it."""

    def make(*options: str) -> Path:
        path = tmp_path / "folder" / "out"
        path.parent.mkdir()
        path.write_text("")
        if request.param == "mounted":
            (tmp_path / "outside").write_text("an old and longer text")
            request.getfixturevalue("mount")(path, "--bind", *options, tmp_path / "outside")
            return path
        path.write_text("an old and longer text")
        replace = Path.replace

        def busy(self: Path, target: Path) -> Path:
            if target == path:
                raise OSError(errno.EBUSY, "Device or resource busy")
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", busy)
        return path

    return make


def test_a_mounted_file_is_written_over_once_all_is_there(single_file: Callable[..., Path], tmp_path: Path) -> None:
    path = single_file()
    before = path.stat().st_ino
    with new_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "an old and longer text"
    assert path.read_text() == "new"
    assert path.stat().st_ino == before
    assert names(path.parent) == ["out"]
    write_bytes(path, b"x" * 10**6)
    assert path.stat().st_size == 10**6


def test_when_writing_over_fails_the_complete_content_stays_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single_file: Callable[..., Path]
) -> None:
    path = single_file()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OutputError, match=r"is no longer whole.*The complete content stands in") as caught:
        write_text(path, "new")
    (complete,) = [other for other in path.parent.iterdir() if other != path]
    assert str(complete) in str(caught.value)
    assert complete.read_text() == "new"


def test_a_file_in_a_folder_that_takes_no_new_ones_is_written_over(
    tmp_path: Path, mount: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside, temporary = tmp_path / "folder", tmp_path / "outside", tmp_path / "temporary"
    for made in (folder, temporary):
        made.mkdir()
    outside.write_text("old")
    (folder / "out").write_text("")
    mount(folder, "--bind", folder)
    mount(folder / "out", "--bind", outside)
    mount(folder, "-o", "remount,ro,bind")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with new_file(folder / "out") as file:
        (elsewhere,) = temporary.iterdir()
        assert elsewhere.stat().st_mode & 0o777 == 0o600, "all users share that folder"
        file.write(b"new")
    assert outside.read_text() == "new"
    assert names(temporary) == []
    with pytest.raises(OutputError, match=r"other cannot be written \(Read-only file system"):
        write_text(folder / "other", "new")


def test_a_file_that_is_mounted_read_only_is_refused_before_the_work(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    (tmp_path / "outside").write_text("old")
    (tmp_path / "out").write_text("")
    mount(tmp_path / "out", "--bind", tmp_path / "outside")
    mount(tmp_path / "out", "-o", "remount,ro,bind")
    with pytest.raises(OutputError, match="Read-only file system"), new_file(tmp_path / "out"):
        pytest.fail("the work has begun")
    assert names(tmp_path) == ["out", "outside"]


def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, mount: Callable[..., None]) -> None:
    mount(tmp_path, "-t", "tmpfs", "-o", "size=64k", "tmpfs")
    path = tmp_path / "x"
    write_text(path, "old")
    with pytest.raises(OutputError, match=r"x cannot be written \(No space left on device\)\. Make room"):
        write_bytes(path, b"x" * 10**6)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x"]
