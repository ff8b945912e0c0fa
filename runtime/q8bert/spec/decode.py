"""JSON objects as dataclasses: every fault is named, and nothing is let through that a field's type does not say.

The types of fields may be ``str``, ``int``, ``float``, ``bool``, ``object`` (anything), one of these or ``None``,
``tuple[X, ...]`` (a list in JSON), ``Mapping[str, X]`` (an object) and other dataclasses.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from q8bert.spec.errors import ConfigError

__all__ = ["decode"]

Decoded = TypeVar("Decoded")

# a single one, and several
_WORDS = {
    str: ("a text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "finite numbers"),
    bool: ("true or false", "switches"),
    object: ("a value", "values"),
}


def decode(kind: type[Decoded], content: Mapping[str, object], *, ignore_unknown: bool = False) -> Decoded:
    """Build a dataclass from a JSON object.

    Args:
        kind: The dataclass.
        content: The object.
        ignore_unknown: Whether keys without a field are passed over; otherwise they are faults.

    Returns:
        The dataclass; lists have become tuples.

    Raises:
        ConfigError: If keys are missing, unknown or of another kind; it names every fault.
    """
    faults: list[str] = []
    value = _dataclass(kind, content, "", faults, ignore_unknown=ignore_unknown)
    if faults:
        raise ConfigError(faults)
    result: Decoded = value
    return result


def _dataclass(
    kind: type[Any], content: Mapping[str, object], where: str, faults: list[str], *, ignore_unknown: bool
) -> Any:
    known, hints, values, n_before = fields(kind), get_type_hints(kind), {}, len(faults)
    unknown = [key for key in content if key not in hints]
    if unknown and not ignore_unknown:
        faults += [f"{where}unknown key {key!r}; known are {', '.join(hints)}" for key in unknown]
    for field in known:
        if field.name in content:
            values[field.name] = _value(hints[field.name], content[field.name], where + field.name, faults)
        elif field.default is MISSING and field.default_factory is MISSING:
            faults.append(f"{where}{field.name} must be {_describe(hints[field.name])}, but is missing")
    return kind(**values) if len(faults) == n_before else None


def _value(kind: Any, value: object, where: str, faults: list[str]) -> Any:
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
        return _dataclass(kind, value, f"{where}: ", faults, ignore_unknown=False)
    if get_origin(kind) is Mapping and isinstance(value, Mapping) and is_dataclass(get_args(kind)[1]):
        return {key: _value(get_args(kind)[1], inner, f"{where}: {key}", faults) for key, inner in value.items()}
    if not _fits(kind, value):
        faults.append(f"{where} must be {_describe(kind)}, got {value!r}")
        return None
    return tuple(value) if isinstance(value, list) and get_origin(kind) is tuple else value


def _fits(kind: Any, value: object) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return any(_fits(one, value) for one in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(arguments[0], inner) for inner in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(arguments[1], inner) for inner in value.values())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _describe(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return " or ".join("null" if one is types.NoneType else _describe(one) for one in arguments)
    if origin is tuple:
        return f"a list of {_WORDS[arguments[0]][1]}"
    if origin is Mapping:
        return f"an object of {_WORDS[arguments[1]][1]}" if arguments[1] in _WORDS else "an object of objects"
    return _WORDS[kind][0] if kind in _WORDS else f"an object with {', '.join(field.name for field in fields(kind))}"
