"""Writing files and folders so that a crash leaves the old state or the new one, never a half.

Everything is written beside its final place, flushed to disk, and renamed. A rename within
one folder is atomic on POSIX file systems and on NTFS.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "PARTIAL",
    "new_folder",
    "read_json",
    "remove_folder",
    "sha256_of",
    "write_bytes",
    "write_json",
    "write_text",
]

# end of the name of what is being written, or being deleted; a crash may leave it behind
PARTIAL = ".partial"


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, atomically, also when several processes do so at once."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes ``target``.

    An existing ``target`` is replaced. When the block fails, nothing remains and an
    existing ``target`` is untouched.

    Args:
        target: Where the folder is to stand.

    Yields:
        An empty folder beside ``target``.

    Raises:
        OSError: If it cannot be written, or not renamed.
    """
    target = target.resolve()  # what a link points to is replaced, not the link
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL}")  # another process may write the same
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _flush(partial)
        if target.exists():
            # two renames: a crash between them leaves the old folder under the name *.old.*.partial
            old = target.with_name(f"{target.name}.old.{os.getpid()}{PARTIAL}")
            target.rename(old)
            try:
                partial.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder so that a crash leaves it whole or under a name that says it is not."""
    doomed = path.with_name(f"{path.name}.deleted{PARTIAL}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
