"""JSON objects as dataclasses: every fault is named, and nothing is let through that a field's type does not say.

The types of fields are those of :mod:`q8bert.spec.kinds` and other dataclasses, which are objects in JSON.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from q8bert.spec.checked import fit
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import describe

__all__ = ["decode"]

Decoded = TypeVar("Decoded")


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
    known, hints, values, n_before = fields(kind), get_type_hints(kind, include_extras=True), {}, len(faults)
    unknown = [key for key in content if key not in hints]
    if unknown and not ignore_unknown:
        faults += [f"{where}unknown key {key!r}; known are {', '.join(hints)}" for key in unknown]
    for field in known:
        if field.name in content:
            values[field.name] = _value(hints[field.name], content[field.name], where + field.name, faults)
        elif field.default is MISSING and field.default_factory is MISSING:
            faults.append(f"{where}{field.name} must be {_described(hints[field.name])}, but is missing")
    return kind(**values) if len(faults) == n_before else None


def _value(kind: Any, value: object, where: str, faults: list[str]) -> Any:
    if _is_dataclass(kind) and isinstance(value, Mapping):
        return _dataclass(kind, value, f"{where}: ", faults, ignore_unknown=False)
    if get_origin(kind) is Mapping and isinstance(value, Mapping) and _is_dataclass(get_args(kind)[1]):
        return {key: _value(get_args(kind)[1], inner, f"{where}: {key}", faults) for key, inner in value.items()}
    if get_origin(kind) is tuple and isinstance(value, list) and _is_dataclass(get_args(kind)[0]):
        return tuple(_value(get_args(kind)[0], inner, f"{where}[{at}]", faults) for at, inner in enumerate(value))
    if _is_dataclass(kind):
        faults.append(f"{where} must be {_described(kind)}, got {value!r}")
        return None
    return fit(kind, value, where, faults)


def _is_dataclass(kind: Any) -> bool:
    return is_dataclass(kind) and isinstance(kind, type)


def _described(kind: Any) -> str:
    if _is_dataclass(kind):
        return f"an object with {', '.join(field.name for field in fields(kind))}"
    return describe(kind)
