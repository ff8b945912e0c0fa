"""One process writes in a run's folder: a lock that the operating system holds, so that no crash leaves it behind.

The lock is on the file ``run.lock``, in which the holder's machine and process stand for whoever finds it taken. The
file goes when the lock is given back; one that a crash left means nothing.

On a network file system a lock is as good as its server: NFS passes it on to other machines unless it is mounted with
``nolock`` or ``local_lock``. There, two machines that write in one folder still meet.
"""

import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from q8bert.spec.errors import CheckpointError
from q8bert.spec.files import output_errors, real_path

__all__ = ["LOCK_FILE", "run_lock"]

LOCK_FILE = "run.lock"

_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
# Windows keeps others from reading the bytes that are locked, so they lie beyond all that is written
_LOCKED_BYTE = 2**30
_N_TRIES = 100


@contextmanager
def run_lock(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run's folder; make the folder where there is none.

    Args:
        folder: Folder of the run; where nothing was written in a new one, it goes again.
        report: Called with a sentence where the file system has no locks.

    Yields:
        Nothing; the run is written inside.

    Raises:
        CheckpointError: If another process holds the lock, or the folder is a file.
        OutputError: If nothing can be written in the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"--output-dir {folder} is a file; give a folder")
    is_new = not folder.exists()
    path = folder / LOCK_FILE
    with output_errors(folder):
        handle = _held(path, report)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps what is open
            path.unlink()
        if is_new:
            with suppress(OSError):  # there is a run in it
                real_path(folder).rmdir()
        os.close(handle)


def _held(path: Path, report: Callable[[str], None]) -> int:
    for _ in range(_N_TRIES):  # the last holder may delete folder and file while they are opened here
        with suppress(FileExistsError, FileNotFoundError):
            real_path(path.parent).mkdir(parents=True, exist_ok=True)  # a link may point to a folder not made yet
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(handle, path, report)
                if os.path.samestat(path.stat(), os.fstat(handle)):
                    os.ftruncate(handle, 0)
                    os.write(handle, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
    raise CheckpointError(f"{path.parent} is made and deleted by other processes. Give another --output-dir")


def _lock(handle: int, path: Path, report: Callable[[str], None]) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - there is none elsewhere

            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl  # noqa: PLC0415

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise CheckpointError(
                f"{path.parent} is being trained by {_holder(path)}. Wait until it is done, stop it, or give another "
                "--output-dir"
            ) from error
        if error.errno not in _NO_LOCKS:
            raise
        report(f"{path.parent} is on a file system without locks: nothing keeps a second process out of it")


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, TypeError, KeyError):  # it is just being written
        return "another process"
