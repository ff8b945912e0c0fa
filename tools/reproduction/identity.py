"""What a result was made by: the code, the libraries and the machine. Results of other code are never mixed."""

import hashlib
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_machine import machine

from q8bert.training.versions import library_versions

__all__ = ["Identity", "source_hash"]

ROOT = Path(__file__).resolve().parents[2]
_PARTS = ("training", "export", "runtime")


@dataclass(frozen=True)
class Identity:
    """What makes results.

    Attributes:
        source: SHA-256 over all Python files of the package, its first 12 digits: what decides whether two results may
            stand in one table. A commit that changes texts or tools alone leaves it as it is.
        commit: The checkout's commit; empty outside one.
        is_clean: Whether the package's files are those of the commit.
        versions: Of the libraries that take part.
        machine: CPU, its number of cores and its wide instructions.
    """

    source: str
    commit: str
    is_clean: bool
    versions: dict[str, str]
    machine: dict[str, Any]

    @staticmethod
    def here() -> "Identity":
        """Return the identity of this checkout, environment and machine."""
        return Identity(
            source=source_hash(ROOT),
            commit=_git("rev-parse", "HEAD"),
            is_clean=not _git("status", "--porcelain", *_PARTS),
            versions=library_versions(),
            machine=machine(),
        )

    def values(self) -> dict[str, Any]:
        """Return what stands in a result's file."""
        return asdict(self)


def source_hash(root: Path) -> str:
    """Return the first 12 digits of the SHA-256 over names and bytes of the package's Python files."""
    digest = hashlib.sha256()
    for part in _PARTS:
        for path in sorted((root / part).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
