"""Tensors of the protocol, against those that its own client writes and reads."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q8bert.runtime.server.protocol.tensors import Output, read_texts, split_body
from q8bert.spec.errors import InputError

utils = pytest.importorskip("tritonclient.utils")

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20)


def described(n_rows: int, n_bytes: int) -> dict[str, object]:
    return {"name": "text", "datatype": "BYTES", "shape": [n_rows, 1], "parameters": {"binary_data_size": n_bytes}}


@settings(deadline=None)
@given(TEXTS)
def test_texts_are_read_as_the_client_writes_them(texts: list[str]) -> None:
    written = utils.serialize_byte_tensor(np.array(texts, dtype=np.object_)).item()
    found, size = read_texts(described(len(texts), len(written)), memoryview(written + b"the next"), max_rows=20)
    assert found.values == texts
    assert size == len(written)


@settings(deadline=None)
@given(TEXTS)
def test_texts_are_written_as_the_client_reads_them(texts: list[str]) -> None:
    written = Output("label", "BYTES", (len(texts), 1), texts).to_bytes()
    assert [one.decode() for one in utils.deserialize_bytes_tensor(written)] == texts


def test_numbers_and_truths_are_bytes_of_the_protocol() -> None:
    # FP32 is IEEE 754 in four bytes, little-endian; BOOL is one byte of 0 or 1
    assert Output("score", "FP32", (2, 1), [1.0, -0.5]).to_bytes() == bytes.fromhex("0000803f000000bf")
    assert Output("truncated", "BOOL", (2, 1), [True, False]).to_bytes() == b"\x01\x00"


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(1, 4))
def test_any_bytes_are_texts_or_an_error(content: bytes, n_rows: int) -> None:
    try:
        found, _ = read_texts(described(n_rows, len(content)), memoryview(content), max_rows=4)
    except InputError:
        return
    assert utils.serialize_byte_tensor(np.array(found.values, dtype=np.object_)).item() == content


ODD = [
    None, True, 0, 1, -1, 2.5, float("nan"), 10**30, "", "text", "BYTES", "INT32", "a", [], [1], [1, 1], [2, 1], [0, 1], [1, 2],
    [True, 1], [1.0, 1], ["a"], ["a", "b"], [["a"]], [["a"], ["b"]], [[["a"]]], [None], [{}], {}, {"binary_data_size": 0},
    {"binary_data_size": -1}, {"binary_data_size": True}, {"shared_memory_region": "x"}, {"other": 1},
]  # fmt: skip
KEYS = ("name", "datatype", "shape", "parameters", "data")
LIKELY = {
    "name": ["text"],
    "datatype": ["BYTES"],
    "shape": [[1, 1], [2]],
    "data": [["a"], ["a", "b"]],
    "parameters": [{}],
}


@settings(deadline=None, max_examples=400)
@given(st.fixed_dictionaries({}, optional={key: st.sampled_from([*LIKELY[key], *ODD]) for key in KEYS}))
def test_any_json_is_a_tensor_or_an_error(tensor: dict[str, object]) -> None:
    try:
        found, size = read_texts(tensor, memoryview(b""), max_rows=4)
    except InputError:
        return
    assert tensor["datatype"] == "BYTES"
    assert 1 <= len(found.values) <= 4
    assert size == 0


def test_json_may_be_nested_as_the_shape_is() -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b"]]}
    assert read_texts(tensor, memoryview(b""), max_rows=2)[0].values == ["a", "b"]


@pytest.mark.parametrize("length", ["", "-1", "1.5", "٣", "1" * 30, "abc", " 2"])
def test_a_length_of_json_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(InputError, match="Inference-Header-Content-Length"):
        split_body(b"{}", length)


def test_a_body_is_split_where_its_header_says() -> None:
    content, data = split_body(b'{"a": 1}rest', "8")
    assert content == {"a": 1}
    assert bytes(data) == b"rest"


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a": ' * 100_000, b"1" * 10_000, b"\xff{}", b"", b"null", b'"text"']
)
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(InputError):
        split_body(text, None)


def test_messages_do_not_repeat_long_input() -> None:
    huge = {"name": "n" * 10_000, "datatype": "x" * 10_000, "shape": [1] * 10_000, "data": ["a"]}
    for tensor in (huge, {**huge, "datatype": "BYTES"}, json.dumps(huge)):
        with pytest.raises(InputError) as caught:
            read_texts(tensor, memoryview(b""), max_rows=4)
        assert len(str(caught.value)) < 300
