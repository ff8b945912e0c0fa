"""Damage to files as it happens: cut, emptied, lost, exchanged, a bit turned, a JSON value of another kind."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["copied", "damage_bytes", "damage_folder", "other_value"]

_HEADER = 8  # bytes of a safetensors file that say how long its JSON header is


def copied(source: Path, target: Path) -> Path:
    """Copy a folder by links; :func:`damage_folder` writes new files, so what is linked stays as it is."""
    shutil.copytree(source, target, copy_function=os.link)
    return target


def damage_folder(folder: Path, rng: Random) -> str:
    """Damage one file of a folder, seldom two.

    Args:
        folder: Changed in place.
        rng: Decides what.

    Returns:
        What was done, in words.
    """
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    chosen = rng.sample(list(whole), 2 if rng.random() < 0.1 and len(whole) > 1 else 1)
    return "; ".join(f"{path.relative_to(folder)}: {_damage_file(path, whole, rng)}" for path in chosen)


def _damage_file(path: Path, whole: Mapping[Path, bytes], rng: Random) -> str:
    content = whole[path]
    path.unlink()
    inner: list[tuple[str, Callable[[bytes, Random], bytes]]] = [("bytes", damage_bytes)]
    if path.suffix == ".json":
        inner += [("JSON", _damage_json)] * 4
    if path.suffix == ".safetensors":
        inner += [("header", _damage_safetensors)] * 2
    match rng.choice(["inner"] * 8 + ["missing", "exchanged", "folder", "dangling link"]):
        case "missing":
            return "missing"
        case "exchanged":
            other = rng.choice(list(whole))
            path.write_bytes(whole[other])
            return f"now holds {other.name}"
        case "folder":
            path.mkdir()
            return "a folder of its name"
        case "dangling link":
            path.symlink_to(path.with_name("nowhere"))
            return "a link to nothing"
    name, damage = rng.choice(inner)
    path.write_bytes(damage(content, rng))
    return f"damaged {name}"


def damage_bytes(content: bytes, rng: Random) -> bytes:
    """Return bytes cut, emptied, overwritten, doubled, or with some of their bits turned."""
    at = rng.randrange(len(content) + 1)
    turned = bytearray(content or b"\0")
    for _ in range(rng.choice([1, 1, 1, 8, 64])):
        turned[rng.randrange(len(turned))] ^= 1 << rng.randrange(8)
    return rng.choice([
        b"",
        content[:at],
        content[at:],
        content + content[:at],
        content[:at] + rng.randbytes(rng.randint(1, 64)) + content[at:],
        content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :],
        bytes(turned),
        bytes(turned),
    ])  # fmt: skip


def other_value(rng: Random) -> Any:
    """Return a JSON value that hardly belongs where it will stand."""
    return rng.choice([
        None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "0",
        "1e3", "\u0000", "\ud800", "../../x", "a" * 100_000, [], [None], [[]], ["x", "x"], {}, {"": None},
        {"x": {"y": []}}, _nested(60), _nested(5_000),
    ])  # fmt: skip


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _damage_json(content: bytes, rng: Random) -> bytes:
    value = json.loads(content)
    holder = value
    while True:  # a way down to some key or index
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.75:
            holder = holder[key]
            continue
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}_"] = holder.pop(key)
            case 2 if isinstance(holder, dict):
                holder["unknown"] = other_value(rng)
            case 3:
                value = other_value(rng)
            case _:
                holder[key] = other_value(rng)
        break
    return _written(value)


def _written(value: Any) -> bytes:
    try:
        return json.dumps(value, indent=1).encode()
    except (RecursionError, ValueError):  # too deep, or a number of too many digits, for Python to write
        return b"[" * 100_000 if isinstance(value, list) else b'{"a": ' * 50_000 + b"9" * 5_000


def _damage_safetensors(content: bytes, rng: Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:_HEADER])
    header, data = content[_HEADER : _HEADER + length], content[_HEADER + length :]
    match rng.randrange(3):
        case 0:
            wrong = rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])
            return struct.pack("<Q", wrong) + header + data
        case 1:
            tensors = json.loads(header)
            name = rng.choice([name for name in tensors if name != "__metadata__"])
            key = rng.choice(["dtype", "shape", "data_offsets"])
            possible: dict[str, list[Any]] = {
                "dtype": ["F64", "I64", "BF16", "U8", "X9"],
                "shape": [[], [0], [2**40, 2**40], [1, 1, 1]],
                "data_offsets": [[0, 0], [0, 2**50], [-4, 4]],
            }
            tensors[name][key] = rng.choice([*possible[key], other_value(rng)])
            header = _written(tensors)
        case _:
            header = _damage_json(header, rng)
    return struct.pack("<Q", len(header)) + header + data
