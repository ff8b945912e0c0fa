"""Prints what `gpu_check.py` found."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_part", "print_summary"]

_WIDTH_OF_FILES = 180  # columns where the output is no terminal, whose width it would have


def print_part(name: str, found: Mapping[str, Any]) -> None:
    """Print the tables, notes and faults of one part."""
    console = _console()
    for title, rows in found["tables"].items():
        console.print(_table(f"{name}: {title}", rows))
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for fault in found["faults"]:
        console.print(f"FAULT: {fault}", markup=False, soft_wrap=True)
    for text in found["tracebacks"]:
        console.print(text, markup=False, soft_wrap=True)


def print_summary(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how every part ended."""
    rows = [
        {"part": name, **{key: found[key] for key in ("status", "seconds", "budget_seconds", "reason")}}
        for name, found in parts.items()
    ]
    _console().print(_table("parts", rows))


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=escape(title), title_justify="left")
    for name in columns:
        is_number = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(escape(name.replace("_", " ")), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(row.get(name))) for name in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
