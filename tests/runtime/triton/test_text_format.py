import pytest
from hypothesis import given
from hypothesis import strategies as st

from q8bert.runtime.triton.text_format import Word, to_text

pytest.importorskip("grpc")  # or the next line raises something else
model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
text_format = pytest.importorskip("google.protobuf.text_format")


def parsed(text: str) -> object:
    return text_format.Parse(text, model_config.ModelConfig())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_protobuf_reads_every_text_as_it_was(text: str) -> None:
    written = to_text([("name", text), ("parameters", [("key", text), ("value", [("string_value", text)])])])
    config = parsed(written)
    assert config.name == text
    assert config.parameters[text].string_value == text
    assert written.isascii()


@given(st.integers(-(2**31), 2**31 - 1), st.booleans())
def test_protobuf_reads_every_number_and_switch_as_it_was(number: int, switch: bool) -> None:
    config = parsed(
        to_text([
            ("max_batch_size", number),
            ("input", [("dims", number), ("dims", 7), ("optional", switch), ("data_type", Word("TYPE_STRING"))]),
            ("input", [("name", "second")]),
        ])
    )  # fmt: skip
    assert config.max_batch_size == number
    assert list(config.input[0].dims) == [number, 7]
    assert config.input[0].optional is switch
    assert config.input[0].data_type == model_config.TYPE_STRING
    assert config.input[1].name == "second"


def test_a_message_without_fields_is_there() -> None:
    config = parsed(to_text([("dynamic_batching", [])]))
    assert config.HasField("dynamic_batching")
