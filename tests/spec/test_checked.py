"""Fields and arguments are checked at once, and every fault is named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

from q8bert.spec.checked import checked, fit, fit_fields, fitted
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import at_least


def test_a_long_value_is_shown_in_part() -> None:
    faults: list[str] = []
    fit(int, "a" * 1000, "x", faults)
    fit(float, 10**5000, "x", faults)  # which has no text at all
    assert [len(fault) < 200 for fault in faults] == [True, True]


@dataclass(frozen=True)
class Range:
    low: Annotated[int, at_least(0)] = 0
    high: Annotated[int, at_least(0)] = 9
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fit_fields(self, lambda: ["low is above high"] if self.low > self.high else [])


def test_fields_are_checked_together_and_their_conflicts_where_types_fit() -> None:
    assert Range(np.int64(1), names=["a"]) == Range(1, 9, ("a",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        Range(low=2, high=-1)
    assert caught.value.faults == ("high must be 0 or more, got -1", "low is above high")
    with pytest.raises(ConfigError) as caught:
        Range(low="2", names="ab")  # type: ignore[arg-type]
    assert caught.value.faults == (
        "low must be a whole number, 0 or more, got '2'",
        "names must be a list of texts, got 'ab'",
    )


def test_a_checked_function_begins_only_when_every_argument_fits() -> None:
    calls = []

    class Door:
        @classmethod
        @checked
        def open(cls, where: Path, *, width: Annotated[int, at_least(1)] = 1, note: str | None = None) -> Path:
            """Open it."""
            calls.append((where, width, note))
            return where

    assert Door.open("a", width=np.int8(2)) == Path("a")  # type: ignore[arg-type]
    assert calls == [(Path("a"), 2, None)]
    with pytest.raises(ConfigError) as caught:
        Door.open(3, width=0, note=b"")  # type: ignore[arg-type]
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == ["where", "width", "note"]
    with pytest.raises(TypeError, match="positional"):
        Door.open("a", "b", width=1)  # type: ignore[misc, arg-type]
    assert len(calls) == 1
    assert Door.open.__doc__ == "Open it."


def test_one_value_is_checked_alone() -> None:
    assert fitted(Annotated[int, at_least(1)], np.int64(3), "rows") == 3
    with pytest.raises(ConfigError, match="rows must be at least 1, got 0"):
        fitted(Annotated[int, at_least(1)], 0, "rows")
