"""What can be chosen is checked once, and every fault is named."""

import pytest

from q8bert.runtime.server.options import ModelOptions, ServerOptions
from q8bert.spec.errors import ConfigError


def test_all_faults_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        ServerOptions(port=70_000, max_rows=2000, max_queue=10, max_body_bytes=10, max_buffered_bytes=5)
    assert [fault.split()[0] for fault in caught.value.faults] == ["port", "max_rows", "max_body_bytes"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", -1), ("port", "8000"), ("read_s", 0), ("timeout_s", float("nan")), ("max_queue", 0), ("leave_s", -1),
        ("reuse_port", 1), ("host", None), ("reload_s", float("inf")), ("max_connections", 1.5),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        ServerOptions(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("token", ["", "two words", "tab\t", "line\nbreak", "ünï"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerOptions(token=token)
    assert not token or token not in str(caught.value)


def test_a_token_is_in_no_representation() -> None:
    assert "horse" not in repr(ServerOptions(token="correct-horse"))


def test_one_port_cannot_be_both() -> None:
    with pytest.raises(ConfigError, match="own_port"):
        ServerOptions(port=8000, own_port=8000)


def test_model_options_are_those_of_a_service() -> None:
    assert ModelOptions().runtime.n_threads == 1
    with pytest.raises(ConfigError, match="max_padding"):
        ModelOptions(max_padding=1.0)
