"""Where models come from: the names and folders of a command line, and the versions that lie in a folder.

A folder is a bundle, which is version 1, or holds bundles in folders whose names are whole numbers, as Triton's model
repositories do.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from q8bert.spec.bundle.bundle import MANIFEST_FILE, MODEL_CARD_FILE
from q8bert.spec.bundle.named import named_folders
from q8bert.spec.errors import BundleError
from q8bert.spec.files import partial_of

__all__ = ["Signature", "Source", "card_of", "parse_sources", "signature_of"]

_VERSION = re.compile(r"[1-9][0-9]{0,17}")

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Source:
    """A model by name.

    Attributes:
        name: What callers call it.
        folder: A bundle, or a folder of versions.
        has_versions: Which of the two.
    """

    name: str
    folder: Path
    has_versions: bool

    def versions(self) -> Mapping[int, Path]:
        """Return the folders of the bundles by version; what is no version is left out.

        Returns:
            Version → folder; empty where the folder is not there at this moment.
        """
        if not self.has_versions:
            return {1: self.folder} if self.folder.is_dir() else {}
        try:
            entries = sorted(self.folder.iterdir())
        except OSError:
            return {}
        return {int(path.name): path for path in entries if _VERSION.fullmatch(path.name) and path.is_dir()}


def parse_sources(given: Sequence[str]) -> tuple[Source, ...]:
    """Read the names and folders of a command line.

    Args:
        given: ``NAME=FOLDER`` or ``FOLDER``, whose name is then the model's.

    Returns:
        The sources, in order.

    Raises:
        BundleError: If a folder is neither a bundle nor holds versions.
        ConfigError: If a name cannot stand in an address, or two models have the same.
    """
    return tuple(_source(name, folder) for name, folder in named_folders(given).items())


def signature_of(folder: Path) -> Signature:
    """Return what changes when a file of a bundle does: names, inodes, sizes and times of what lies in its folder.

    Args:
        folder: The bundle.

    Returns:
        One entry a file; what is unfinished is left out. Empty where there is no such folder.
    """
    found = []
    try:
        for path in sorted(folder.iterdir()):
            if partial_of(path) is None and path.is_file():
                status = path.stat()
                found.append((path.name, status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError:  # replaced while it was looked at
        return ()
    return tuple(found)


def card_of(folder: Path) -> str:
    """Return the model card of a bundle; empty where it has none that can be read."""
    try:
        return (folder / MODEL_CARD_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _source(name: str, folder: Path) -> Source:
    if (folder / MANIFEST_FILE).is_file():
        return Source(name, folder, has_versions=False)
    source = Source(name, folder, has_versions=True)
    if not source.versions():
        raise BundleError(
            f"{folder} is neither a bundle (it has no {MANIFEST_FILE}) nor holds any in folders called 1, 2, …. "
            "Make one with `q8bert export`"
        )
    return source
