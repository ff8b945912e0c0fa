"""What stands in a repository already under a model's name, and what of it a new version must not change."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from q8bert.runtime.triton.configs import CONFIG_FILE
from q8bert.runtime.triton.interface import Interface
from q8bert.runtime.triton.plan import Plan
from q8bert.spec.bundle.bundle import MANIFEST_FILE
from q8bert.spec.bundle.parts import open_parts
from q8bert.spec.errors import ConfigError
from q8bert.tasks.task import task_from_json

__all__ = ["Standing", "faults_of", "standing"]

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# the lines of an ensemble's configuration that say its version
_OF_A_VERSION = re.compile(r"^( *(?:versions|model_version)): \d+$", re.MULTILINE)


@dataclass(frozen=True)
class Standing:
    """A model that is there, or the place where one is to be.

    Attributes:
        repository: The repository.
        newest: Its newest version; None where the model is not there.
        interface: What callers know of it; None where it is not there.
        files: Names of the files of its newest version's bundle.
    """

    repository: Path
    newest: int | None = None
    interface: Interface | None = None
    files: frozenset[str] = frozenset()

    @property
    def is_there(self) -> bool:
        """Whether the model is there."""
        return self.newest is not None

    def next_version(self, wanted: int | None) -> int:
        """Return the version that is to be written.

        Args:
            wanted: What was asked for.

        Returns:
            That, or the next one.

        Raises:
            ConfigError: If it is no version, or not above those that are there.
        """
        newest = self.newest or 0
        if wanted is None:
            return newest + 1
        if wanted <= newest or not _VERSION.fullmatch(str(wanted)):
            raise ConfigError([
                f"version must be a whole number above {newest}"
                + (f", the newest one in {self.repository}" if newest else "")
                + f", got {wanted}"
            ])  # fmt: skip
        return wanted

    def leftovers(self, model: Path, version: int) -> list[Path]:
        """Return what an attempt that failed left of a model, and would count among the versions that are kept.

        Args:
            model: The model's folder.
            version: The version that is written now.

        Returns:
            Folders of versions that no ensemble ever named.
        """
        numbers = [int(path.name) for path in model.iterdir() if _VERSION.fullmatch(path.name)]
        return [model / str(number) for number in numbers if number > (self.newest or 0) and number != version]


def standing(repository: Path, name: str) -> Standing:
    """Look at what stands in a repository under a name.

    Args:
        repository: The repository, there or not.
        name: The ensemble's name.

    Returns:
        What is there.

    Raises:
        BundleError: If the newest version's manifest cannot be read.
        ConfigError: If something else has that name.
    """
    folder = repository / name
    if not folder.exists():
        return Standing(repository)
    versions = [int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name)] if folder.is_dir() else []
    if not versions or not (folder / str(max(versions)) / MANIFEST_FILE).is_file():
        raise ConfigError([
            f"{folder} is there, and was not written by `q8bert triton`. Call the model something else: NAME=FOLDER"
        ])  # fmt: skip
    bundle, _ = open_parts(folder / str(max(versions)), ())
    task = task_from_json(bundle.manifest.task, source=str(bundle.path))
    interface, names = Interface.of(bundle.manifest, task), frozenset(bundle.manifest.files)
    return Standing(repository, max(versions), interface, names)


def faults_of(plan: Plan, before: Standing, *, replace_config: bool) -> list[str]:
    """Say what keeps a version from standing beside those that are there.

    Args:
        plan: The version.
        before: What is there.
        replace_config: Whether configurations may change.

    Returns:
        What is wrong, in words; empty where nothing is.
    """
    if before.interface is None:
        return []
    if differences := plan.interface.differences(before.interface):
        return [
            f"{plan.name}: version {plan.version} would have {'; '.join(differences)}, as version {before.newest} has. "
            "Callers would not know what they get: give it a name of its own, NAME=FOLDER"
        ]
    if plan.graph_file not in before.files:
        return [
            f"{plan.name}: version {plan.version} would be loaded from {plan.graph_file}, which version "
            f"{before.newest} has not, and Triton has one configuration for both. Give it its own name, NAME=FOLDER"
        ]
    if replace_config:
        return []
    return [
        f"{path}: {'; '.join(lines)}. Triton has one configuration for all versions: give the options that it was "
        "written with, or --replace-config to change it for the older versions too"
        for path, lines in _changes(plan, before.repository).items()
    ]


def _changes(plan: Plan, repository: Path) -> Mapping[Path, list[str]]:
    found = {}
    for model in plan.models:
        path = repository / model.name / CONFIG_FILE
        old = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        here, there = (
            _OF_A_VERSION.sub(r"\1", text).splitlines() for text in (model.shared[CONFIG_FILE].decode(), old)
        )
        if here != there:
            pairs = zip(here, [*there, *[""] * len(here)], strict=False)
            line, was = next(((new, old) for new, old in pairs if new != old), ("", there[-1] if there else ""))
            found[path] = [f"the first line that would change is {line.strip()!r}, and is {was.strip()!r}"]
    return found
