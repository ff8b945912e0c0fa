"""The files of a bundle: read once, and held to what its manifest says of them."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from q8bert.spec.errors import BundleError

__all__ = ["FileRecord", "read_files"]


@dataclass(frozen=True)
class FileRecord:
    """Size and checksum of one file of the bundle.

    Attributes:
        size_bytes: Length of the file.
        sha256: SHA-256 of its bytes, hexadecimal.
    """

    size_bytes: int
    sha256: str


def read_files(folder: Path, records: Mapping[str, FileRecord], *, kept: Collection[str]) -> dict[str, bytes]:
    """Read every file of a bundle, one at a time.

    Args:
        folder: The bundle.
        records: What its manifest says of each file, by plain file name.
        kept: Names of the files whose bytes are wanted.

    Returns:
        Their bytes, which are those that were hashed.

    Raises:
        BundleError: If files are missing, unreadable or other than recorded; it names all of them.
    """
    faults: list[str] = []
    contents: dict[str, bytes] = {}
    for name, record in records.items():
        path = folder / name
        try:
            # a file of another size is not read, however large it is, unless its line ends may be the reason
            size = path.stat().st_size if path.is_file() else None
            content = path.read_bytes() if size is not None and size <= 2 * record.size_bytes else b""
        except (OSError, ValueError) as error:
            faults.append(f"{name!r} cannot be read ({error})")
            continue
        if size is None:
            faults.append(f"{name} is missing")
        elif (digest := hashlib.sha256(content).hexdigest()) == record.sha256 and size == record.size_bytes:
            if name in kept:
                contents[name] = content
        elif hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == record.sha256:
            faults.append(
                f"the line ends of {name} were converted to those of Windows; copy it as it is, with git by the line "
                f"`* -text` in .gitattributes"
            )
        elif size != record.size_bytes:
            faults.append(f"{name} has {size} bytes, the manifest says {record.size_bytes}")
        else:
            faults.append(f"{name} has SHA-256 {digest[:12]}…, the manifest says {record.sha256[:12]}…")
    if faults:
        raise BundleError(f"{folder}: " + "; ".join(faults) + ". Copy the bundle again, or export it again")
    return contents
