"""Any JSON is decoded to what the types say, or refused with every fault."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q8bert.spec.decode import decode
from q8bert.spec.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    size: int
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    names: tuple[str, ...] = ()
    other: str | None = None
    switch: bool = False
    inner: Inner = Inner(1)
    inners: Mapping[str, Inner] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    listed: tuple[Inner, ...] = ()
    anything: Mapping[str, object] = field(default_factory=dict)


def test_an_object_becomes_the_dataclass_and_lists_become_tuples() -> None:
    content = {
        "name": "n", "names": ["a", "b"], "other": None, "switch": True, "inner": {"size": 3},
        "inners": {"x": {"size": 1, "share": 1}}, "listed": [{"size": 4}], "numbers": {"y": 2}, "anything": {"z": [None]},
    }  # fmt: skip
    assert decode(Outer, content) == Outer(
        "n", ("a", "b"), None, True, Inner(3), {"x": Inner(1, 1.0)}, {"y": 2}, (Inner(4),), {"z": [None]}
    )
    assert decode(Outer, {"name": "n"}) == Outer("n")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({}, "name must be a text, but is missing"),
        ({"name": 1}, "name must be a text, got 1"),
        ({"name": "n", "names": "ab"}, "names must be a list of texts, got 'ab'"),
        ({"name": "n", "names": ["a", 1]}, "names must be a list of texts, got ['a', 1]"),
        ({"name": "n", "other": 1}, "other must be a text or none, got 1"),
        ({"name": "n", "switch": 1}, "switch must be true or false, got 1"),
        ({"name": "n", "inner": []}, "inner must be an object with size, share, got []"),
        ({"name": "n", "inner": {"size": True}}, "inner: size must be a whole number, got True"),
        ({"name": "n", "inner": {"size": 1, "x": 2}}, "inner: unknown key 'x'; known are size, share"),
        ({"name": "n", "inners": {"x": {}}}, "inners: x: size must be a whole number, but is missing"),
        ({"name": "n", "listed": [{"size": 1}, {"size": "2"}]}, "listed[1]: size must be a whole number, got '2'"),
        ({"name": "n", "listed": [1]}, "listed[0] must be an object with size, share, got 1"),
        ({"name": "n", "listed": 1}, "listed must be a list of objects, got 1"),
        ({"name": "n", "numbers": {"x": 10**400}}, "numbers must be an object of finite numbers, got {'x': 1000"),
        ({"name": "n", "inners": {"x": 1}}, "inners: x must be an object with size, share, got 1"),
        ({"name": "n", "numbers": {"x": float("nan")}}, "numbers must be an object of finite numbers, got {'x': nan}"),
        ({"name": "n", "numbers": {"x": False}}, "numbers must be an object of finite numbers, got {'x': False}"),
        ({"name": "n", "colour": 1}, "unknown key 'colour'; known are name, names"),
    ],
)
def test_a_fault_says_where_it_is_and_what_is_allowed(content: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Outer, content)
    (found,) = caught.value.faults
    assert found.startswith(fault)


def test_faults_are_reported_together_and_unknown_keys_may_be_passed_over() -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Outer, {"names": 1, "inner": {"share": "x"}, "colour": 1})
    assert len(caught.value.faults) == 5
    assert decode(Outer, {"name": "n", "colour": 1}, ignore_unknown=True) == Outer("n")


WORDS = st.sampled_from(["", "a", "size", "share", "x"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(Outer.__dataclass_fields__)), JSON_VALUES))
def test_any_json_is_decoded_or_refused(content: dict[str, Any]) -> None:
    try:
        decoded = decode(Outer, content)
    except ConfigError:
        return
    for name, value in content.items():
        again = asdict(decoded)[name]
        assert (list(again) if isinstance(again, tuple) else again) == value or name in {"inner", "inners", "listed"}
