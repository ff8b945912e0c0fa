"""Names and folders of a command line."""

import re
from collections.abc import Sequence
from pathlib import Path

from q8bert.runtime.triton.configs import step_name
from q8bert.runtime.triton.steps.choice import STEPS
from q8bert.spec.errors import ConfigError

__all__ = ["named_bundles"]

# what can stand in an address as it is
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def named_bundles(given: Sequence[str]) -> dict[str, Path]:
    """Read bundles and what they are to be called.

    Args:
        given: ``NAME=FOLDER`` or ``FOLDER``, whose own name is then the model's.

    Returns:
        Folder by name, in order.

    Raises:
        ConfigError: If a name cannot stand in an address, or two models would have the same.
    """
    faults = []
    found: list[tuple[str, Path]] = []
    for one in given:
        name, equals, rest = one.partition("=")
        folder = rest if equals else one
        if not folder:
            faults.append(f"a bundle is given as NAME=FOLDER or FOLDER, got {one!r}")
            continue
        name = name if equals else Path(folder).absolute().name
        if not _NAME.fullmatch(name):
            faults.append(f"a model's name must be of letters, digits, '.', '_' and '-', got {name!r}: say NAME=FOLDER")
        found.append((name, Path(folder)))
    taken = [model for name, _ in found for model in (name, *(step_name(name, step) for step in STEPS))]
    faults += [
        f"two models would be called {model!r}; give each bundle a name of its own: NAME=FOLDER"
        for model in dict.fromkeys(taken)
        if taken.count(model) > 1
    ]
    if not given:
        faults.append("give one bundle or more")
    if faults:
        raise ConfigError(faults)
    return dict(found)
