"""What a value must be, said once by the type that it is declared with.

JSON objects (:mod:`q8bert.spec.decode`), options and arguments (:mod:`q8bert.spec.checked`) are held to their types by
the same few lines. A type may be ``str``, ``int``, ``float``,
``bool``, ``Path``, ``object`` (anything), ``None``, a class, a union, ``tuple``, ``Sequence``, ``Mapping`` or
``Callable``; ``Annotated[int, at_least(1)]`` adds a range to it.

What means the same is brought into one form: a number of numpy becomes Python's, a list the tuple that was meant, a
path and its text each other. Nothing else is: 2.5, "2" and True are no whole numbers.
"""

import math
import numbers
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

import numpy as np

__all__ = ["Check", "MisfitError", "above", "at_least", "describe", "held", "one_of", "share"]

# a single one, and several
_WORDS: Mapping[Any, tuple[str, str]] = types.MappingProxyType(
    {
        str: ("a text", "texts"),
        int: ("a whole number", "whole numbers"),
        float: ("a finite number", "finite numbers"),
        bool: ("true or false", "switches"),
        object: ("a value", "values"),
        Any: ("a value", "values"),
        Path: ("a path", "paths"),
        types.NoneType: ("none", "nones"),
    }
)


@dataclass(frozen=True)
class Check:
    """What a value must be besides its type.

    Attributes:
        must_be: In words, for example ``above 0``.
        fits: Whether a value of the type is that.
    """

    must_be: str
    fits: Callable[[Any], bool]


class MisfitError(ValueError):
    """What a value should have been, in words; and whether it is of the type at least."""

    def __init__(self, must_be: str, *, is_of_type: bool = False) -> None:
        self.must_be, self.is_of_type = must_be, is_of_type
        super().__init__(must_be)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), is_of_type=self.is_of_type), self.args


def at_least(smallest: float) -> Check:
    """Return the check for a number of at least this."""
    return Check("0 or more" if smallest == 0 else f"at least {smallest}", lambda value: bool(value >= smallest))


def above(bound: float) -> Check:
    """Return the check for a number above this."""
    return Check(f"above {bound}", lambda value: bool(value > bound))


def one_of(choices: Sequence[str]) -> Check:
    """Return the check for one of some texts."""
    return Check(f"one of {', '.join(choices)}", lambda value: value in choices)


def share() -> Check:
    """Return the check for a share that leaves something over."""
    return Check("at least 0 and below 1", lambda value: 0 <= value < 1)


def held(kind: Any, value: object) -> Any:
    """Hold a value to a type.

    Args:
        kind: The type, as an annotation gives it.
        value: The value.

    Returns:
        The value in the form of its type.

    Raises:
        MisfitError: If it does not fit; a caller says of what.
    """
    origin = get_origin(kind)
    try:
        if origin is None:
            return _single(kind, value)
        if origin is Annotated:
            return _in_range(kind, value)
        if origin in {types.UnionType, Union}:
            return _one_of_several(_alternatives(get_args(kind)), value)
        return _collection(origin, get_args(kind), value)
    except MisfitError as misfit:
        # of the whole, not of the item that did not fit
        raise misfit if misfit.is_of_type else MisfitError(describe(kind)) from misfit
    except (ValueError, TypeError, OverflowError) as error:
        raise MisfitError(describe(kind)) from error


def describe(kind: Any) -> str:
    """Say in words what a type takes."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None:
        return _WORDS[kind][0] if kind in _WORDS else f"a {kind.__module__}.{kind.__qualname__}"
    if origin is Annotated:
        checks = [check.must_be for check in arguments[1:] if isinstance(check, Check)]
        return ", ".join([describe(arguments[0]), *checks])
    if origin in {types.UnionType, Union}:
        return " or ".join(describe(one) for one in _alternatives(arguments))
    return _describe_collection(origin, arguments)


def _in_range(kind: Any, value: object) -> Any:
    inner, *others = get_args(kind)
    found = held(inner, value)
    for check in others:
        if isinstance(check, Check) and not check.fits(found):
            raise MisfitError(check.must_be, is_of_type=True)
    return found


def _alternatives(kinds: Sequence[Any]) -> Sequence[Any]:
    # `Path | str` is a path
    return [kind for kind in kinds if kind is not str or Path not in kinds]


def _one_of_several(kinds: Sequence[Any], value: object) -> Any:
    found = []
    for one in kinds:
        try:
            found.append(held(one, value))
        except MisfitError as misfit:
            if misfit.is_of_type:
                raise
    # as it is, where that fits too
    return next((one for one in found if one is value), found[0]) if found else _refuse()


def _collection(origin: Any, arguments: Sequence[Any], value: object) -> Any:
    if origin is Mapping and isinstance(value, Mapping):
        return {held(arguments[0], key): held(arguments[1], inner) for key, inner in value.items()}
    if origin in {tuple, Sequence} and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        is_fixed = origin is tuple and Ellipsis not in arguments
        kinds = arguments if is_fixed else [arguments[0]] * len(value)
        return tuple(held(one, inner) for one, inner in zip(kinds, value, strict=True))
    return value if origin is Callable and callable(value) else _refuse()


def _single(kind: Any, value: object) -> Any:
    if kind in {object, Any}:
        return value
    read = {int: _whole, float: _finite, str: _text, Path: _path}.get(kind)
    if read is not None:
        return read(value)
    if kind is bool and isinstance(value, np.bool_):
        return bool(value)
    return value if isinstance(value, kind) else _refuse()


def _whole(value: object) -> int:
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else _refuse()


def _finite(value: object) -> float:
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    return number if math.isfinite(number) else _refuse()


def _text(value: object) -> str:
    text = str(value) if isinstance(value, PurePath) else value
    if not isinstance(text, str):
        _refuse()
    text.encode("utf-8")  # half a surrogate pair could not be written down
    return text


def _path(value: object) -> Path:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    # an empty text would mean the folder that the program was started in
    if not isinstance(text, str) or not text or "\0" in text:
        _refuse()
    return value if isinstance(value, Path) else Path(text)


def _refuse() -> NoReturn:
    raise ValueError


def _describe_collection(origin: Any, arguments: Sequence[Any]) -> str:
    if origin is Callable:
        return "a function"
    if origin is tuple and Ellipsis not in arguments:
        return f"a tuple of {' and '.join(describe(one) for one in arguments)}"
    kind = arguments[1] if origin is Mapping else arguments[0]
    several = f"items, each {describe(kind)}"
    if kind in _WORDS:
        several = _WORDS[kind][1]
    elif isinstance(kind, type):
        several = "objects"
    return f"{'an object' if origin is Mapping else 'a list'} of {several}"
