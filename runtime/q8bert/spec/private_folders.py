"""Folders that nobody else can write to, for what is used again without being looked at: caches.

Whoever can write to a cache can exchange what is loaded from it, names and checksums included. So a folder is made for
its owner alone, and one that belongs to somebody else, or that others may write to, is refused. The superuser may do
anything anyway, so a folder of his will do. Windows has no such bits, and leaves a user's folders to the user.
"""

import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from q8bert.spec.errors import ConfigError
from q8bert.spec.files import remove

__all__ = ["make_private", "prune", "refuse_shared"]

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_SUPERUSER = 0


def make_private(folder: Path, *, option: str) -> None:
    """Make a folder for its owner alone, unless it is there.

    Args:
        folder: The folder; those above it are made too.
        option: What it was given as, for the message.

    Raises:
        ConfigError: If it cannot be made, or is not the user's alone.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError([
            f"{option} {folder} cannot be written: {error}. Give another folder, or leave it out"
        ]) from error  # fmt: skip
    refuse_shared(folder, option=option)


def refuse_shared(folder: Path, *, option: str) -> None:
    """Check that a folder is the user's alone; one that is not there is.

    Args:
        folder: The folder.
        option: What it was given as, for the message.

    Raises:
        ConfigError: If somebody else could exchange what lies in it.
    """
    if os.name == "nt":
        return
    fault = None
    with suppress(FileNotFoundError):
        # the link too: its owner decides where it leads
        for found in (folder.lstat(), folder.stat()):
            if found.st_uid not in {os.geteuid(), _SUPERUSER}:
                fault = f"belongs to user {found.st_uid}"
            elif not stat.S_ISLNK(found.st_mode) and found.st_mode & _OTHERS_WRITE:
                fault = f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    if fault is not None:
        raise ConfigError([
            f"{option} {folder} {fault}, who could exchange what is loaded from it. Give a folder of your own, or run "
            f"`chmod go-w {folder}`"
        ])  # fmt: skip


def prune(entries: Iterable[Path], *, days: float) -> None:
    """Delete what has not been used for some days; to use an entry is to set its time.

    Args:
        entries: Files or folders.
        days: After how many.
    """
    for path in entries:
        with suppress(OSError):  # another process may be doing the same
            if time.time() - path.lstat().st_mtime > days * 24 * 60 * 60:
                remove(path)
