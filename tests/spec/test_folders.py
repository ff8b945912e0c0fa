"""Folders are there whole, or as they were; mount points are filled from inside."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from q8bert.spec.errors import OutputError
from q8bert.spec.files import write_text
from q8bert.spec.folders import entries, new_folder, refuse_unwritable, remove_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(target: Path, *files: str, last: str | None = None) -> None:
    with new_folder(target, last=last) as folder:
        for name in files:
            (folder / name).write_text(f"new {name}")


def test_a_failed_folder_leaves_the_old_one_untouched(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    fill(target, "a")
    with pytest.raises(RuntimeError, match="crash"), new_folder(target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError("crash")
    assert (target / "a").read_text() == "new a"
    assert names(tmp_path) == ["folder"]


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("a", "b"):
        fill(target, name)
    assert names(target) == ["b"]
    assert names(tmp_path) == ["folder"]


def test_a_new_folder_has_the_rights_of_any_other(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "a")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_new_folder_touches_nothing_of_a_like_name_and_comes_back_when_a_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = tmp_path / "folder", tmp_path / "folder.partial"
    other.mkdir()
    fill(target, "a")
    rename = Path.rename

    def fail(path: Path, new: Path) -> Path:
        if new == target and ".old." not in path.name:
            raise PermissionError(errno.EACCES, "no")
        return rename(path, new)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match=r"folder cannot be written \(no\)"):
        fill(target, "a", "b")
    assert names(target) == ["a"]
    assert names(tmp_path) == ["folder", "folder.partial"]


@pytest.mark.skipif(os.name == "nt", reason="Windows flushes no folders")
def test_files_then_their_names_then_that_of_the_folder_are_put_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flushed: list[tuple[bool, bool]] = []  # whether a folder, and whether it stood in its place by then

    def fsync(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        if not is_folder:  # Windows flushes only what may be written
            assert fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        flushed.append((is_folder, (tmp_path / "folder").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    fill(tmp_path / "folder", "a", "b")
    assert sorted(flushed) == [(False, False), (False, False), (True, False), (True, True)]
    assert flushed[-1] == (True, True)


def test_two_writers_of_one_folder_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in two containers
    target = tmp_path / "folder"
    with new_folder(target) as first:
        (first / "a").write_text("first")
        fill(target, "b")
        assert names(target) == ["b"]
    assert names(target) == ["a"]


def test_a_folder_is_deleted_whole_and_a_file_in_its_place_too(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "a")
    (tmp_path / "file").write_text("")
    remove_folder(tmp_path / "folder")
    remove_folder(tmp_path / "file")
    assert names(tmp_path) == []
    with pytest.raises(OutputError, match="No such file"):
        remove_folder(tmp_path / "folder")


@pytest.fixture(params=["patched", "mounted"])
def mount_point(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that cannot be renamed, as one that is mounted into a container."""
    path = tmp_path / "volume"
    path.mkdir()
    if request.param == "mounted":
        request.getfixturevalue("mount")(path, "-t", "tmpfs", "tmpfs")
    rename = Path.rename

    def busy(self: Path, target: Path) -> Path:
        if path in {self, target}:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(self, target)

    if request.param == "patched":
        monkeypatch.setattr(Path, "rename", busy)
    return path


def test_a_mount_point_is_filled_from_inside(mount_point: Path, tmp_path: Path) -> None:
    (mount_point / "lost+found").mkdir()
    fill(mount_point, "a", "b")
    assert names(mount_point) == ["a", "b", "lost+found"]
    fill(mount_point, "a", "c")
    assert names(mount_point) == ["a", "c", "lost+found"]
    assert [path.name for path in entries(mount_point)] == ["a", "c"]
    assert names(tmp_path) == ["volume"]


def test_into_a_mount_point_the_last_file_goes_last(mount_point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = Path.replace

    def recorded(self: Path, target: Path) -> Path:
        order.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", recorded)
    fill(mount_point, "a", "manifest", "z", last="manifest")
    assert order == ["a", "z", "manifest"]


def test_a_failure_before_a_mount_point_is_complete_leaves_the_old_content(mount_point: Path) -> None:
    fill(mount_point, "a")
    with pytest.raises(RuntimeError, match="crash"), new_folder(mount_point) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError("crash")
    assert (mount_point / "a").read_text() == "new a"
    assert names(mount_point) == ["a"]


def test_a_folder_below_a_parent_that_cannot_be_written_is_filled_from_inside(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    parent, volume = tmp_path / "parent", tmp_path / "parent" / "volume"
    volume.mkdir(parents=True)
    mount(parent, "--bind", parent)
    mount(volume, "-t", "tmpfs", "tmpfs")
    mount(parent, "-o", "remount,ro,bind")
    fill(volume, "a")
    assert names(volume) == ["a"]
    with pytest.raises(OutputError, match="Read-only file system"), new_folder(parent / "new"):
        pytest.fail("the work has begun")
    with pytest.raises(OutputError, match="Read-only file system"):
        refuse_unwritable(parent / "new" / "deep")
    refuse_unwritable(volume / "new" / "deep")
    assert names(volume) == ["a"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_takes_no_new_ones_is_refused_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"Permission denied.*this user may write to"):
        refuse_unwritable(tmp_path / "new")


def test_the_place_in_a_message_is_the_one_that_was_meant(mount_point: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "new", mount_point):
        with pytest.raises(OutputError, match=f"{target}/missing/a cannot be written"), new_folder(target) as folder:
            write_text(folder / "missing" / "a", "")


def test_links_in_a_circle_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=r"loop cannot be written \(Too many levels of symbolic links"):
        refuse_unwritable(tmp_path / "loop")
    with pytest.raises(OutputError), new_folder(tmp_path / "loop"):
        pytest.fail("there is no place")
    assert names(tmp_path) == ["loop"]


def test_trying_leaves_nothing(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "deep")
    (tmp_path / "there").mkdir()
    refuse_unwritable(tmp_path / "there")
    assert names(tmp_path) == ["there"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        refuse_unwritable(tmp_path / "file" / "new")
