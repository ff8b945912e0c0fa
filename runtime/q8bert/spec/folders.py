"""Folders that are there whole, or not at all.

A folder is filled under another name, flushed to disk and renamed. Where a folder stands already and cannot be renamed
(a mount point, a folder of a container's image) or nothing can be made beside it, the new one is filled inside of it
and its files are renamed into place one by one, one that the caller names last: what reads the folder can tell by it
that all are there.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from q8bert.spec.files import clear_stale, flush_folder, output_errors, partial_name, partial_of, real_path, remove

__all__ = ["entries", "new_folder", "refuse_unwritable", "remove_folder"]

# what file systems put into a fresh volume; it is nobody's content, and stays
_OF_THE_FILE_SYSTEM = {"lost+found"}


def entries(folder: Path) -> list[Path]:
    """Return what somebody put into a folder: neither what is unfinished nor what the file system put there."""
    return [
        path for path in sorted(folder.iterdir()) if path.name not in _OF_THE_FILE_SYSTEM and partial_of(path) is None
    ]


@contextmanager
def new_folder(target: Path, *, last: str | None = None) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes ``target``.

    An existing ``target`` is replaced, all of it: the caller makes sure that nothing there is another's. When the block
    fails, nothing remains and an existing ``target`` is untouched.

    Args:
        target: Where the folder is to stand; what a link points to is replaced, not the link.
        last: Name of the file that is put in place last, where they are put in place one by one.

    Yields:
        An empty folder, beside ``target`` or inside of it. That it can be written has been tried by then.

    Raises:
        OutputError: If it cannot be written, or not renamed.
    """
    with output_errors(target):
        target = real_path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        for place in (target, target / target.name):
            clear_stale(place)
        partial = _make_partial(target)
        try:
            yield partial
            _flush(partial)
        except BaseException:
            remove(partial)
            raise
        if partial.parent == target:
            _move_in(partial, target, last)
        else:
            _swap_in(partial, target)


def refuse_unwritable(target: Path) -> None:
    """Check before the work that :func:`new_folder` will find a place for its folder.

    Args:
        target: Where the folder is to stand.

    Raises:
        OutputError: If it cannot be written there.
    """
    with output_errors(target):
        folder = real_path(target)
        while not folder.exists() and not folder.parent.exists():
            folder = folder.parent
        remove(_make_partial(folder))


def remove_folder(path: Path) -> None:
    """Delete what stands at a path so that a crash leaves it whole or under a name that says it is not.

    Args:
        path: What to delete.

    Raises:
        OutputError: If it cannot be deleted.
    """
    with output_errors(path):
        doomed = path.with_name(partial_name(path.with_name(f"{path.name}.deleted")))
        path.rename(doomed)
        remove(doomed)


def _make_partial(target: Path) -> Path:
    beside, inside = target.with_name(partial_name(target)), target / partial_name(target)
    if not target.exists():
        beside.mkdir()
        return beside
    if not any((target / name).exists() for name in _OF_THE_FILE_SYSTEM):
        try:
            beside.mkdir()
            if _can_be_renamed(target, beside):
                return beside
        except OSError:
            pass  # nothing can be made beside it
        remove(beside)
    inside.mkdir()
    return inside


def _can_be_renamed(folder: Path, other: Path) -> bool:
    # no folder can take the name of one that is not empty: where that alone is the objection, another name would do
    occupant = other / "occupant"
    occupant.touch()
    try:
        folder.rename(other)
    except OSError as error:
        occupant.unlink()
        return error.errno in {errno.ENOTEMPTY, errno.EEXIST}
    other.rename(folder)  # a file system of its own mind
    other.mkdir()
    return True


def _swap_in(partial: Path, target: Path) -> None:
    old = None
    try:
        if target.exists():
            # two renames: a crash between them leaves the old folder under the name *.old.*.partial
            old = target.with_name(partial_name(target.with_name(f"{target.name}.old")))
            target.rename(old)
        partial.rename(target)
    except OSError:
        if old is not None and old.exists():
            old.rename(target)
        remove(partial)
        raise
    flush_folder(target.parent)
    if old is not None:
        remove(old)


def _move_in(partial: Path, target: Path, last: str | None) -> None:
    # the folder of the unfinished goes last: while it is there, what stands beside it may be half of the new
    names = sorted((path.name for path in partial.iterdir()), key=lambda name: (name == last, name))
    for path in entries(target):
        if path.name not in {*names, last}:
            remove(path)
    for name in names:
        if name == last:
            flush_folder(target)
        (partial / name).replace(target / name)
    flush_folder(target)
    remove(partial)


def _flush(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            flush_folder(path)
        elif path.is_file():
            with path.open("r+b") as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())
