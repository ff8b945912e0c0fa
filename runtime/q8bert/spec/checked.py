"""Fields and arguments that are checked by the types that they are declared with, all faults at once."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ParamSpec, TypeVar, get_type_hints

from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import MisfitError, held

__all__ = ["checked", "fit", "fit_fields", "fitted"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_N_SHOWN = 120


def fit(kind: Any, value: object, where: str, faults: list[str]) -> Any:
    """Hold a value to a type.

    Args:
        kind: The type, as an annotation gives it.
        value: The value.
        where: Its name, for the message.
        faults: Takes what is wrong, in words.

    Returns:
        The value in the form of its type; None where it does not fit.
    """
    try:
        return held(kind, value)
    except MisfitError as misfit:
        faults.append(_fault(where, misfit, value))
        return None


def fitted(kind: Any, value: object, where: str) -> Any:
    """Hold one value to a type.

    Args:
        kind: The type, as an annotation gives it.
        value: The value.
        where: Its name, for the message.

    Returns:
        The value in the form of its type.

    Raises:
        ConfigError: If it does not fit.
    """
    faults: list[str] = []
    found = fit(kind, value, where, faults)
    if faults:
        raise ConfigError(faults)
    return found


def fit_fields(instance: Any, conflicts: Callable[[], Sequence[str]] = tuple) -> None:
    """Hold every field of a frozen dataclass to its type; for its ``__post_init__``.

    Args:
        instance: The dataclass; its fields are brought into the form of their types.
        conflicts: Returns what is wrong with several fields together; asked where each is of its type.

    Raises:
        ConfigError: If there are faults; it names all of them.
    """
    kinds, faults, is_typed = get_type_hints(type(instance), include_extras=True), [], True
    for field in fields(instance):
        value = getattr(instance, field.name)
        try:
            value_held = held(kinds[field.name], value)
        except MisfitError as misfit:
            faults.append(_fault(field.name, misfit, value))
            is_typed &= misfit.is_of_type
        else:
            object.__setattr__(instance, field.name, value_held)
    if is_typed:
        faults += conflicts()
    if faults:
        raise ConfigError(faults)


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a function begin only when every argument fits its annotation, and name all that do not together.

    Args:
        function: Its arguments are brought into the form of their annotations.

    Returns:
        The function; it raises :class:`~q8bert.spec.errors.ConfigError`.
    """

    @functools.cache
    def declared() -> tuple[inspect.Signature, Mapping[str, Any]]:
        return inspect.signature(function), get_type_hints(function, include_extras=True)

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        signature, kinds = declared()
        given = signature.bind(*args, **kwargs)
        faults: list[str] = []
        for name, value in given.arguments.items():
            if name in kinds:
                given.arguments[name] = fit(kinds[name], value, name, faults)
        if faults:
            raise ConfigError(faults)
        return function(*given.args, **given.kwargs)

    return call


def _fault(where: str, misfit: MisfitError, value: object) -> str:
    try:
        given = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        given = f"one with too many digits, {type(value).__name__}"
    return f"{where} must be {misfit.must_be}, got {given if len(given) <= _N_SHOWN else given[:_N_SHOWN] + '…'}"
