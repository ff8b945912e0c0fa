"""One checker of types for JSON, options and arguments: what fits is brought into one form, all else is named."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import pytest

from q8bert.spec.checked import fit
from q8bert.spec.kinds import above, at_least, one_of, share


class Thing:
    pass


THING = Thing()


def same(value: object) -> object:
    return value


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, np.int32(3), 3),
        (int, np.uint8(3), 3),
        (float, np.float32(0.5), 0.5),
        (float, 2, 2.0),
        (bool, np.bool_(1), True),
        (str, Path("a/b"), "a/b"),
        (Path, "a/b", Path("a/b")),
        (Path | str, "a/b", Path("a/b")),
        (Optional[Path], None, None),  # noqa: UP045 - as Typer's annotations have it
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[str, Mapping[str, object]], ["a", {"b": None}], ("a", {"b": None})),
        (Sequence[str | tuple[str, Mapping[str, object]]], ["a", ("b", {})], ("a", ("b", {}))),
        (Mapping[str, float], {"a": np.float64(1)}, {"a": 1.0}),
        (Annotated[int, at_least(2)], np.int64(2), 2),
        (Annotated[float, above(0)] | None, 1, 1.0),
        (Thing, THING, THING),
        (Callable[[object], object], same, same),
        (object, THING, THING),
    ],
)
def test_what_means_the_same_is_brought_into_the_form_of_its_type(kind: Any, value: object, expected: object) -> None:
    faults: list[str] = []
    found = fit(kind, value, "x", faults)
    assert faults == []
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("kind", "value", "must_be"),
    [
        (int, 2.0, "a whole number"),
        (int, "2", "a whole number"),
        (int, True, "a whole number"),
        (int, np.bool_(1), "a whole number"),
        (int, None, "a whole number"),
        (float, False, "a finite number"),
        (float, float("nan"), "a finite number"),
        (float, 10**400, "a finite number"),
        (bool, 1, "true or false"),
        (bool, "no", "true or false"),
        (str, b"a", "a text"),
        (str, "\udcff", "a text"),
        (Path, "", "a path"),
        (Path, "a\0b", "a path"),
        (Path, 3, "a path"),
        (Path, b"a", "a path"),
        (Path | str | None, 3, "a path or none"),
        (Path | str, "", "a path"),
        (tuple[str, ...], "ab", "a list of texts"),
        (tuple[str, ...], ("a", 1), "a list of texts"),
        (tuple[str, int], ("a",), "a tuple of a text and a whole number"),
        (Sequence[str | int], [None], "a list of items, each a text or a whole number"),
        (Mapping[str, int], [], "an object of whole numbers"),
        (Annotated[int, at_least(1)], "many", "a whole number, at least 1"),
        (Annotated[int, at_least(1)], 0, "at least 1"),
        (Annotated[float, share()], 1.0, "at least 0 and below 1"),
        (Annotated[str, one_of(("a", "b"))], "c", "one of a, b"),
        (Annotated[float, above(0)] | None, "0", "a finite number, above 0 or none"),
        (Annotated[float, above(0)] | None, 0, "above 0"),
        (Thing, "thing", "a test_kinds.Thing"),
        (Callable[[object], object], "f", "a function"),
    ],
)
def test_what_does_not_fit_is_named_with_what_does(kind: Any, value: object, must_be: str) -> None:
    faults: list[str] = []
    assert fit(kind, value, "x", faults) is None
    (fault,) = faults
    start, _, end = fault.partition(", got ")
    assert start.replace(f"{__name__}.", "test_kinds.") == f"x must be {must_be}"
    assert end[:100] == repr(value)[:100]
