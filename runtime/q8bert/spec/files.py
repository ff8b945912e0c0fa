"""Writing files so that a crash leaves the old state or the new one, never a half.

A file is written beside its final place under a name of its own, flushed to disk, and renamed; then the folder is
flushed, so that the new name survives too. A rename within one folder is atomic on POSIX file systems and on NTFS.
Names are drawn at random and made exclusively: process numbers are not enough, for two containers may share one.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from q8bert.spec.errors import OutputError

__all__ = [
    "LFS_POINTER",
    "PARTIAL",
    "clear_stale",
    "flush_folder",
    "new_file",
    "output_errors",
    "partial_name",
    "partial_of",
    "read_json",
    "real_path",
    "remove",
    "sha256_of",
    "write_bytes",
    "write_json",
    "write_text",
]

# end of the name of what is being written, or being deleted; a crash may leave it behind
PARTIAL = ".partial"
# how a file begins that Git LFS leaves in place of a large one that was not fetched
# (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

_PARTIAL_NAME = re.compile(r"(?P<target>.+)\.[0-9a-f]+" + re.escape(PARTIAL))
# longer than anything is written for: what is older was left by a crash
_STALE_SECONDS = 24 * 60 * 60
# a mounted file, or one of a layer below: it can be written but not replaced
_NOT_RENAMED = {errno.EBUSY, errno.EXDEV}
# file systems whose folders cannot be flushed say so
_NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, atomically, also when several processes do so at once."""
    with new_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace ``path`` by ``content`` as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, object]:
    """Return the JSON object that a file holds.

    Args:
        path: A UTF-8 JSON file.

    Returns:
        The object.

    Raises:
        ValueError: If the file is not UTF-8 JSON, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path}: brackets without end") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """Give a file to fill; when the block ends well it becomes ``target``.

    What cannot be replaced by renaming (a single file that was mounted into a container, or one in a folder that takes
    no new files) is written over once the content is complete and on disk elsewhere. That alone is not atomic: where
    it fails, the complete content stays and the message says where.

    Args:
        target: Where the file is to stand; what a link points to is replaced, not the link.

    Yields:
        A file open for writing. That there is a place for it has been tried by then.

    Raises:
        OutputError: If it cannot be written.
    """
    with output_errors(target):
        target = real_path(target)
        clear_stale(target)
        _refuse_read_only(target)
        partial, file = _open_partial(target)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            is_there = _renamed(partial, target)
        except BaseException:
            remove(partial)
            raise
        if not is_there:
            _copy_over(partial, target)
            remove(partial)


@contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn what the system says while something is written into an error with the place and what to do.

    Args:
        target: What is written, for the message.

    Yields:
        Nothing; the writing happens inside.

    Raises:
        OutputError: Instead of every other ``OSError``.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        why, place = error.strerror or str(error), _when_done(target)
        if isinstance(error.filename, str) and (other := _when_done(Path(error.filename))) != place:
            why += f": {other}"
        raise OutputError(f"{place} cannot be written ({why}). {_remedy(error)}") from error


def partial_name(target: Path) -> str:
    """Return a name for something unfinished that is to become ``target``; no two are alike."""
    return f"{target.name}.{secrets.token_hex(8)}{PARTIAL}"


def partial_of(path: Path) -> str | None:
    """Return the name of what something unfinished was to become; None for what is no work of this module."""
    match = _PARTIAL_NAME.fullmatch(path.name)
    return match["target"] if match else None


def clear_stale(target: Path) -> None:
    """Delete what crashes left of earlier attempts at ``target``, where it is too old to be another process's work."""
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        with suppress(OSError):  # another process may be doing the same
            if partial_of(path) == target.name and time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                remove(path)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there and as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def flush_folder(folder: Path) -> None:
    """Put the names in a folder on disk, where the system can do that (Windows cannot)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def real_path(path: Path) -> Path:
    """Return where a path leads when links are followed, to what is not there yet too.

    Args:
        path: Any path.

    Returns:
        An absolute path without links.

    Raises:
        OSError: If links lead in a circle.
    """
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return found


def _when_done(path: Path) -> Path:
    # people know a file by the place where it is to stand, not by the folder in which it is made
    names = [partial_of(Path(name)) or name for name in path.parts]
    return Path(*(name for at, name in enumerate(names) if name == path.parts[at] or name != names[at - 1]))


def _refuse_read_only(target: Path) -> None:
    # a file mounted read-only beside others that are not would else be noticed when all is done
    try:
        with target.open("r+b"):
            pass
    except (FileNotFoundError, PermissionError):
        pass  # permission to write the old file is not needed to replace it


def _open_partial(target: Path) -> tuple[Path, BinaryIO]:
    beside = target.with_name(partial_name(target))
    try:
        return beside, beside.open("xb")
    except OSError:
        if not (target.is_file() and os.access(target, os.W_OK)):
            raise
    elsewhere = Path(tempfile.gettempdir(), partial_name(target))
    # all users share that folder, and nobody else may read it
    handle = os.open(elsewhere, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    return elsewhere, os.fdopen(handle, "wb")


def _renamed(partial: Path, target: Path) -> bool:
    if partial.parent != target.parent:
        return False
    try:
        partial.replace(target)
    except OSError as error:
        if error.errno in _NOT_RENAMED and target.is_file():
            return False
        raise
    flush_folder(target.parent)
    return True


def _copy_over(partial: Path, target: Path) -> None:
    try:
        with partial.open("rb") as content, target.open("r+b") as file:
            shutil.copyfileobj(content, file)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{target} is no longer whole ({error.strerror or error}): it cannot be replaced by renaming, so it was "
            f"written over. The complete content stands in {partial}: copy it from there"
        ) from error


def _remedy(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return "Make room and give the same command again; what stood there before is as it was"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "Give a place that this user may write to"
    return "Give another place, or mend this one"
