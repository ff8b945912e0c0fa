"""What a part of `gpu_check.py` finds, and the border at which its failure stops.

A part fills tables row by row. Each row, each note and each fault is handed on at once, so that a check that is killed
half-way keeps what it had. What raises inside a part, or inside a row, costs that part or that row alone.
"""

import gc
import math
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CannotRunError", "Findings", "Value", "first_line", "run_part"]

_ROOT = Path(__file__).resolve().parents[2]

Value = str | float | int | bool | None


class CannotRunError(Exception):
    """Raised by a part that lacks something here, which is no fault of what it checks; the text says what."""


@dataclass
class Findings:
    """What one part has found so far.

    Attributes:
        deadline: When the part's time is over, in seconds of :func:`time.monotonic`.
        changed: Called after each addition, with a few words on what was measured, if anything was.
        tables: Name → rows, each a mapping of column to value.
        notes: Sentences that explain the figures.
        faults: What is wrong, in words; any fault fails the part.
        tracebacks: Of the errors among them.
    """

    deadline: float
    changed: Callable[[str], None] = lambda _: None
    tables: dict[str, list[dict[str, Value]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    def row(self, table: str, values: Mapping[str, Any]) -> None:
        """Add a row to a table; numbers that are not finite become texts, which JSON can hold."""
        plain = {name: _plain(value) for name, value in values.items()}
        self.tables.setdefault(table, []).append(plain)
        is_measured = "state" in plain
        self.changed(", ".join(value for value in plain.values() if isinstance(value, str)) if is_measured else "")

    def note(self, text: str) -> None:
        """Add a sentence."""
        self.notes.append(text)
        self.changed("")

    def fault(self, text: str, error: BaseException | None = None) -> None:
        """Add what is wrong, and where in the code it was found."""
        self.faults.append(text)
        if error is not None:
            # where the checkout stands is nobody's business, and the file is published
            self.tracebacks.append("".join(traceback.format_exception(error)).replace(f"{_ROOT}{os.sep}", ""))
        self.changed(f"FAULT: {text}")

    def check(self, text: str, *, holds: bool) -> None:
        """Add a fault, unless what it denies holds."""
        if not holds:
            self.fault(text)

    def seconds_left(self) -> float:
        """Return how long the part may still take."""
        return self.deadline - time.monotonic()

    def attempt(
        self,
        table: str,
        row: Mapping[str, Any],
        measure: Callable[[], Mapping[str, Any]],
        *,
        is_unsupported: Callable[[Exception], bool] = lambda _: False,
        seconds: float = 0.0,
    ) -> None:
        """Add a row with what was measured, or with the first line of the error that came instead.

        Args:
            table: Where the row goes.
            row: Its first columns, which say what is measured.
            measure: Gives the others.
            is_unsupported: Whether an error says that something is not offered here; every other one is a fault.
            seconds: What it may take; where less is left the row says so, and nothing is measured.
        """
        if self.seconds_left() < seconds:
            self.row(table, {**row, "state": f"left out: less than {seconds:.0f} s of the part's time were left"})
            return
        found: Mapping[str, Any] = {}
        n_faults = len(self.faults)
        try:
            found = measure()
            state = "ok" if len(self.faults) == n_faults else "fault"
        except Exception as error:  # noqa: BLE001 - the rows that follow shall still be measured
            if is_unsupported(error):
                state = f"not supported: {first_line(error)}"
            else:
                state = f"failed: {first_line(error)}"
                self.fault(f"{table}, {', '.join(map(str, row.values()))}: {first_line(error)}", error)
        gc.collect()  # the error's traceback held what the row had allocated
        self.row(table, {**row, **found, "state": state})


def run_part(part: Callable[[Findings], None], findings: Findings) -> dict[str, object]:
    """Run a part; whatever it raises stops here.

    Args:
        part: Fills the findings.
        findings: Where they go.

    Returns:
        ``status``, which is ``passed``, ``failed`` or ``cannot run``, ``reason`` where there is one, and ``seconds``.
    """
    started = time.monotonic()
    status, reason = "passed", ""
    try:
        part(findings)
    except CannotRunError as error:
        status, reason = "cannot run", str(error)
    except Exception as error:  # noqa: BLE001 - a failure costs its own part alone
        reason = first_line(error)
        findings.fault(reason, error)
    if findings.faults:
        status = "failed"
        reason = reason or findings.faults[0]
    return {"status": status, "reason": reason, "seconds": round(time.monotonic() - started, 2)}


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _plain(value: Any) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | float | int | bool) or value is None else str(value)
