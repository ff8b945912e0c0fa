"""Options as fields of frozen dataclasses: each says in one place what it means and what fits.

The type of a field says what its value must be (:mod:`q8bert.spec.kinds`). One made by :func:`option` carries its help,
one made by :func:`group` holds a dataclass of further options. The command line, the faults that are reported and the
options that are kept with a run all follow from these fields. Names are unique over all groups, so that options can be
given and kept flat, without naming the groups.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, TypeVar

from q8bert.spec.errors import ConfigError

__all__ = ["MAIN_PANEL", "Option", "build", "flat_fields", "flat_values", "group", "option"]

Config = TypeVar("Config")

# heading in the command line's help of the options that most runs are given
MAIN_PANEL = "Main options"

_OPTION, _GROUP, _PANEL = "option", "group", "panel"


@dataclass(frozen=True)
class Option:
    """What is known of a field besides its type and its default.

    Attributes:
        help: What it means, in a sentence or two.
        decides_results: Whether a run with another value is another run; False for what only changes speed or what is
            shown and kept.
        only_on: Whether a switch can be turned on alone: its default is off.
        panel: Heading under which the command line's help shows it; empty for that of its group.
    """

    help: str
    decides_results: bool
    only_on: bool
    panel: str


def option(
    *,
    help: str,  # noqa: A002 - what it is called on the command line
    default: Any = MISSING,
    decides_results: bool = True,
    only_on: bool = False,
    panel: str = "",
    kw_only: bool = False,
) -> Any:
    """Return a dataclass field for an option.

    Args:
        help: See :class:`Option`.
        default: Its default; left out, the option must be given.
        decides_results: See :class:`Option`.
        only_on: See :class:`Option`.
        panel: See :class:`Option`.
        kw_only: Whether it is given by name alone, and so may do without a default behind options that have one.

    Returns:
        The field.
    """
    return field(default=default, kw_only=kw_only, metadata={_OPTION: Option(help, decides_results, only_on, panel)})


def group(config: type[Any], *, panel: str) -> Any:
    """Return a dataclass field for a group of options.

    Args:
        config: A frozen dataclass that has a default for each of them.
        panel: Heading under which the command line's help shows them.

    Returns:
        The field.
    """
    return field(default_factory=config, metadata={_GROUP: config, _PANEL: panel})


def flat_fields(config: type[Any], *, panel: str = MAIN_PANEL) -> Iterator[tuple[type[Any], Field[Any], Option]]:
    """Yield the options of a dataclass and of its groups.

    Args:
        config: The dataclass.
        panel: Heading of its own options that name none.

    Yields:
        The dataclass that an option belongs to, its field, and what is known of it, its heading included.
    """
    for known in fields(config):
        if _GROUP in known.metadata:
            yield from flat_fields(known.metadata[_GROUP], panel=known.metadata[_PANEL])
        elif _OPTION in known.metadata:
            described: Option = known.metadata[_OPTION]
            yield config, known, replace(described, panel=described.panel or panel)


def flat_values(config: Any, *, results_only: bool = False) -> dict[str, Any]:
    """Return the options of a dataclass and of its groups by name.

    Args:
        config: The dataclass.
        results_only: Whether to leave out those that do not decide results.

    Returns:
        Name → value.
    """
    values: dict[str, Any] = {}
    for known in fields(config):
        value = getattr(config, known.name)
        if _GROUP in known.metadata:
            values |= flat_values(value, results_only=results_only)
        elif _OPTION in known.metadata and (known.metadata[_OPTION].decides_results or not results_only):
            values[known.name] = value
    return values


def build(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Make a dataclass with its groups from options that are given flat.

    Args:
        config: The dataclass.
        values: Name → value; other fields of the dataclass itself may be among them.

    Returns:
        The dataclass.

    Raises:
        ConfigError: If there are faults; it names those of all groups together.
        TypeError: If a name is unknown, or an option that must be given is missing.
    """
    ungrouped, own = dict(values), dict[str, Any]()
    faults: list[str] = []
    for known in fields(config):  # type: ignore[arg-type]
        kind = known.metadata.get(_GROUP)
        if kind is None and known.name in ungrouped:
            own[known.name] = ungrouped.pop(known.name)
        elif kind is not None:
            given = {inner.name: ungrouped.pop(inner.name) for inner in fields(kind) if inner.name in ungrouped}
            try:
                own[known.name] = kind(**given)
            except ConfigError as error:
                faults += error.faults
    if ungrouped:
        raise TypeError(f"unknown options: {', '.join(sorted(ungrouped))}")
    try:
        built = config(**own)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    return built
