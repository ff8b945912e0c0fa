"""Bundles by name, as a command line gives them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from q8bert.spec.errors import ConfigError

__all__ = ["named_folders"]

# what can stand in an address as it is
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def named_folders(
    given: Sequence[str], *, models_of: Callable[[str], Sequence[str]] = lambda name: (name,)
) -> dict[str, Path]:
    """Read bundles and what they are to be called.

    Args:
        given: ``NAME=FOLDER`` or ``FOLDER``, whose own name is then the model's.
        models_of: The models that a name stands for, each of which needs a name of its own.

    Returns:
        Folder by name, in order.

    Raises:
        ConfigError: If a name cannot stand in an address, or two models would have the same; it names every fault.
    """
    faults = []
    found: list[tuple[str, Path]] = []
    for one in given:
        name, equals, rest = one.partition("=")
        folder = rest if equals else one
        if not folder:
            faults.append(f"a bundle is given as NAME=FOLDER or FOLDER, got {one!r}")
            continue
        # a link's own name, not that of what it leads to: that may change
        name = name if equals else Path(folder).absolute().name
        if not _NAME.fullmatch(name):
            faults.append(
                f"a model's name must be of letters, digits, '.', '_' and '-', got {name!r}; name it: NAME=FOLDER"
            )
        found.append((name, Path(folder)))
    called = [model for name, _ in found for model in models_of(name)]
    faults += [
        f"{called.count(model)} models are called {model!r}; give each a name of its own: NAME=FOLDER"
        for model in dict.fromkeys(called)
        if called.count(model) > 1
    ]
    if not given:
        faults.append("give one bundle or more")
    if faults:
        raise ConfigError(faults)
    return dict(found)
