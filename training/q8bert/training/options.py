"""Options as fields of frozen dataclasses: each says in one place what it means and what fits.

A field made by :func:`option` carries its help and its checks, one made by :func:`group` holds a dataclass of further
options. The command line, the faults that are reported and the options that are kept with a run all follow from these
fields. Names are unique over all groups, so that options can be given and kept flat, without naming the groups.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from q8bert.spec.errors import ConfigError

__all__ = [
    "Check",
    "Option",
    "above",
    "at_least",
    "build",
    "check_options",
    "flat_fields",
    "flat_values",
    "group",
    "one_of",
    "option",
    "within",
]

Config = TypeVar("Config")

_OPTION, _GROUP = "option", "group"


@dataclass(frozen=True)
class Check:
    """What a value must be.

    Attributes:
        must_be: In words, for example ``above 0``.
        fits: Whether a value is that.
    """

    must_be: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Option:
    """What is known of a field besides its type and its default.

    Attributes:
        help: What it means, in a sentence or two.
        check: What its value must be; None where every value of its type fits.
        decides_results: Whether a run with another value is another run; False for what only changes speed or what is
            shown and kept.
        only_on: Whether a switch can be turned on alone: its default is off.
    """

    help: str
    check: Check | None
    decides_results: bool
    only_on: bool


def option(
    *,
    help: str,  # noqa: A002 - what it is called on the command line
    default: Any = MISSING,
    check: Check | None = None,
    decides_results: bool = True,
    only_on: bool = False,
) -> Any:
    """Return a dataclass field for an option.

    Args:
        help: See :class:`Option`.
        default: Its default; left out, the option must be given.
        check: See :class:`Option`.
        decides_results: See :class:`Option`.
        only_on: See :class:`Option`.

    Returns:
        The field.
    """
    return field(default=default, metadata={_OPTION: Option(help, check, decides_results, only_on)})


def group(config: type[Any]) -> Any:
    """Return a dataclass field for a group of options: a frozen dataclass that has a default for each of them."""
    return field(default_factory=config, metadata={_GROUP: config})


def at_least(smallest: float) -> Check:
    """Return the check for a finite number of at least this."""
    return Check("0 or more" if smallest == 0 else f"at least {smallest}", _number(lambda value: value >= smallest))


def above(bound: float) -> Check:
    """Return the check for a finite number above this."""
    return Check(f"above {bound}", _number(lambda value: value > bound))


def within(must_be: str, fits: Callable[[float], bool]) -> Check:
    """Return the check for a finite number of a range.

    Args:
        must_be: The range in words.
        fits: Whether a number is in it.

    Returns:
        The check.
    """
    return Check(must_be, _number(fits))


def one_of(choices: Sequence[str]) -> Check:
    """Return the check for one of some texts."""
    return Check(f"one of {', '.join(choices)}", lambda value: value in choices)


def check_options(config: Any, *, conflicts: Sequence[str] = ()) -> None:
    """Check the options of a dataclass, those of its groups left out: each group checks its own.

    Args:
        config: The dataclass.
        conflicts: Faults that concern several options together, found by the caller.

    Raises:
        ConfigError: If there are faults; it names all of them.
    """
    checks = {known.name: known.metadata[_OPTION].check for known in fields(config) if _OPTION in known.metadata}
    faults = [
        f"{name} must be {check.must_be}, got {getattr(config, name)!r}"
        for name, check in checks.items()
        if check is not None and not check.fits(getattr(config, name))
    ]
    if faults or conflicts:
        raise ConfigError([*faults, *conflicts])


def flat_fields(config: type[Any]) -> Iterator[tuple[type[Any], Field[Any], Option]]:
    """Yield the options of a dataclass and of its groups.

    Args:
        config: The dataclass.

    Yields:
        The dataclass that an option belongs to, its field, and what is known of it.
    """
    for known in fields(config):
        if _GROUP in known.metadata:
            yield from flat_fields(known.metadata[_GROUP])
        elif _OPTION in known.metadata:
            yield config, known, known.metadata[_OPTION]


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


def _number(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    def fits_finite(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and fits(value)

    return fits_finite
