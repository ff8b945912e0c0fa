"""The Open Inference Protocol, spoken by its own client to every server: the same answers as the library's.

What differs between servers by right (the status of an error, words) is not asked for here.
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from q8bert.runtime import Classifier

httpx = pytest.importorskip("httpx")
client_module = pytest.importorskip("tritonclient.http")
utils = pytest.importorskip("tritonclient.utils")

WORDS = ["good", "bad", "the", "clever", "film", "plot", "dull", "great", "very", "actors"]
N_CLIENTS = 300
# floats are added up in another order in a batch of another width
TOLERANCE = 1e-5


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with client_module.InferenceServerClient(server.url, concurrency=N_CLIENTS) as made:
        yield made


def texts(name: str, values: Sequence[str | bytes], *, binary: bool) -> Any:
    tensor = client_module.InferInput(name, [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_).reshape(-1, 1), binary_data=binary)
    return tensor


def wanted(*names: str, binary: bool) -> list[Any]:
    return [client_module.InferRequestedOutput(name, binary_data=binary) for name in names]


def labels(result: Any) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else str(one) for one in result.as_numpy("label").ravel()]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 60)))


# ---- what is there ------------------------------------------------------------------------------


def test_the_server_lives_and_is_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert {"name", "version", "extensions"} <= client.get_server_metadata().keys()
    assert client.is_model_ready("sentiment")
    assert client.is_model_ready("similarity", "1")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready("sentiment", "7")


def test_metadata_describes_both_models(client: Any) -> None:
    sentiment = client.get_model_metadata("sentiment")
    assert sentiment["name"] == "sentiment"
    assert sentiment["versions"] == ["1"]
    assert sentiment["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert {one["name"]: (one["datatype"], one["shape"]) for one in sentiment["outputs"]} == {
        "label": ("BYTES", [-1, 1]),
        "probabilities": ("FP32", [-1, 2]),
        "truncated": ("BOOL", [-1, 1]),
    }
    similarity = client.get_model_metadata("similarity", "1")
    assert [one["name"] for one in similarity["inputs"]] == ["text", "text_pair"]
    assert {one["name"]: (one["datatype"], one["shape"]) for one in similarity["outputs"]} == {
        "score": ("FP32", [-1, 1]),
        "truncated": ("BOOL", [-1, 1]),
    }


# ---- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary-out", "json-out"])
def test_labels_and_probabilities_are_the_librarys(
    client: Any, library: dict[str, Classifier], *, binary_in: bool, binary_out: bool
) -> None:
    rows = ["a good film", "dull , dull", "ünï 日本 😀 \u2028", "the " * 50, ""]
    expected = library["sentiment"](rows)
    result = client.infer(
        "sentiment",
        [texts("text", rows, binary=binary_in)],
        outputs=wanted("label", "probabilities", "truncated", binary=binary_out),
        request_id="a name",
    )
    assert result.get_response()["id"] == "a name"
    assert labels(result) == [one.label for one in expected]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (5, 2)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(
        probabilities, [[*(one.probabilities or {}).values()] for one in expected], atol=TOLERANCE
    )
    assert result.as_numpy("truncated").ravel().tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_scores_of_pairs_are_the_librarys(client: Any, library: dict[str, Classifier], *, binary: bool) -> None:
    pairs = [("a good film", "a great film"), ("dull", "the clever plot"), ("x", "y " * 40)]
    result = client.infer(
        "similarity",
        [
            texts(name, column, binary=binary)
            for name, column in zip(("text", "text_pair"), zip(*pairs, strict=True), strict=True)
        ],
        outputs=wanted("score", "truncated", binary=binary),
    )
    expected = library["similarity"](pairs)
    np.testing.assert_allclose(result.as_numpy("score").ravel(), [one.score for one in expected], atol=TOLERANCE * 5)
    assert result.as_numpy("truncated").ravel().tolist() == [False, False, True]


def test_inputs_may_come_in_any_order_and_outputs_be_left_out(client: Any, library: dict[str, Classifier]) -> None:
    result = client.infer(
        "similarity",
        [texts("text_pair", ["bad"], binary=True), texts("text", ["good"], binary=False)],
        outputs=wanted("score", binary=False),
    )
    assert result.as_numpy("score").item() == pytest.approx(library["similarity"]([("good", "bad")])[0].score, abs=1e-4)
    assert result.as_numpy("truncated") is None


def test_all_outputs_come_where_none_is_named(client: Any) -> None:
    result = client.infer("sentiment", [texts("text", ["good"], binary=True)])
    assert {one["name"] for one in result.get_response()["outputs"]} == {"label", "probabilities", "truncated"}


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_bodies_may_be_packed(client: Any, packing: str) -> None:
    result = client.infer("sentiment", [texts("text", ["good"], binary=True)], request_compression_algorithm=packing)
    assert labels(result) == ["positive"]


@pytest.mark.slow
def test_everybody_of_many_clients_gets_the_own_answer(client: Any, library: dict[str, Classifier]) -> None:
    rng = random.Random(16)
    rows = [[sentence(rng) for _ in range(rng.randint(1, 4))] for _ in range(2 * N_CLIENTS)]
    pending = [
        client.async_infer(
            "sentiment",
            [texts("text", some, binary=number % 2 == 0)],
            outputs=wanted("label", "probabilities", binary=number % 3 == 0),
            request_id=f"r{number}",
        )
        for number, some in enumerate(rows)
    ]
    results = [one.get_result(timeout=120) for one in pending]
    for number, (some, result) in enumerate(zip(rows, results, strict=True)):
        assert result.get_response()["id"] == f"r{number}"
        expected = [[*(one.probabilities or {}).values()] for one in library["sentiment"](some)]
        np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=TOLERANCE)


# ---- what is refused ----------------------------------------------------------------------------


def refused(call: Any) -> str:
    with pytest.raises(utils.InferenceServerException) as caught:
        call()
    assert caught.value.status().startswith("4"), caught.value
    return str(caught.value.message())


def test_unknown_models_and_versions_are_refused(client: Any) -> None:
    rows = [texts("text", ["good"], binary=True)]
    assert "nothing" in refused(lambda: client.infer("nothing", rows))
    assert refused(lambda: client.infer("sentiment", rows, model_version="7"))
    assert refused(lambda: client.get_model_metadata("nothing"))


def test_inputs_that_do_not_fit_are_refused(client: Any) -> None:
    one = [texts("text", ["good"], binary=True)]
    two = [texts("text_pair", ["bad", "bad"], binary=True)]
    number = client_module.InferInput("text", [1, 1], "INT32")
    number.set_data_from_numpy(np.array([[1]], dtype=np.int32))
    for model, inputs in (
        ("sentiment", [texts("txt", ["good"], binary=True)]),
        ("sentiment", [number]),
        ("sentiment", [*one, texts("text_pair", ["bad"], binary=True)]),
        ("similarity", one),
        ("similarity", [*one, *two]),
        ("similarity", [*one, *one]),
    ):
        assert refused(lambda model=model, inputs=inputs: client.infer(model, inputs))
    assert refused(lambda: client.infer("sentiment", one, outputs=wanted("score", binary=True)))


def test_texts_that_are_no_utf8_are_refused(client: Any) -> None:
    assert refused(lambda: client.infer("sentiment", [texts("text", [b"good", b"caf\xe9"], binary=True)]))


GOOD = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}
MALFORMED: dict[str, tuple[bytes, dict[str, str]]] = {
    "no JSON": (b"{", {}),
    "no UTF-8": (b'{"inputs": "\xff"}', {}),
    "no object": (b"[1]", {}),
    "no inputs": (b"{}", {}),
    "inputs of another kind": (json.dumps({"inputs": 5}).encode(), {}),
    "an input that is no object": (json.dumps({"inputs": [5]}).encode(), {}),
    "no data": (json.dumps({"inputs": [{**GOOD, "data": None}]}).encode(), {}),
    "data that is no text": (json.dumps({"inputs": [{**GOOD, "data": [5]}]}).encode(), {}),
    "too little data": (json.dumps({"inputs": [{**GOOD, "shape": [2, 1]}]}).encode(), {}),
    "too much data": (json.dumps({"inputs": [{**GOOD, "data": ["good", "good"]}]}).encode(), {}),
    "no rows": (json.dumps({"inputs": [{**GOOD, "shape": [0, 1], "data": []}]}).encode(), {}),
    "fewer than none": (json.dumps({"inputs": [{**GOOD, "shape": [-1, 1]}]}).encode(), {}),
    "another width": (json.dumps({"inputs": [{**GOOD, "shape": [1, 2], "data": ["a", "b"]}]}).encode(), {}),
    "a shape of texts": (json.dumps({"inputs": [{**GOOD, "shape": ["1", "1"]}]}).encode(), {}),
    "JSON longer than the body": (json.dumps({"inputs": [GOOD]}).encode(), {"Inference-Header-Content-Length": "9999"}),
    "a length that is none": (json.dumps({"inputs": [GOOD]}).encode(), {"Inference-Header-Content-Length": "-1"}),
}


def binary_body(data: bytes, *, size: int | None = None, shape: Sequence[int] = (1, 1)) -> tuple[bytes, dict[str, str]]:
    tensor = {
        "name": "text", "datatype": "BYTES", "shape": [*shape],
        "parameters": {"binary_data_size": len(data) if size is None else size},
    }  # fmt: skip
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


MALFORMED_BINARY: dict[str, tuple[bytes, dict[str, str]]] = {
    "half a length": binary_body(b"\x04\x00"),
    "a text that ends too early": binary_body(b"\x04\x00\x00\x00goo"),
    "a length of gigabytes": binary_body(b"\xff\xff\xff\xffgood"),
    "a size beyond the body": binary_body(b"\x04\x00\x00\x00good", size=80),
    "fewer texts than the shape says": binary_body(b"\x04\x00\x00\x00good", shape=(2, 1)),
    "more texts than the shape says": binary_body(b"\x04\x00\x00\x00good" * 2),
    "nothing": binary_body(b""),
}


@pytest.mark.parametrize("case", [*MALFORMED, *MALFORMED_BINARY])
def test_malformed_requests_are_refused_and_the_next_one_is_answered(
    server: Any, request: pytest.FixtureRequest, case: str
) -> None:
    is_ours = request.node.callspec.params["server"] == "ourselves"
    body, headers = (MALFORMED | MALFORMED_BINARY)[case]
    with httpx.Client(base_url=f"http://{server.url}", timeout=60) as http:
        answer = http.post("/v2/models/sentiment/infer", content=body, headers=headers)
        # Triton 2.51 takes the blame for JSON that it cannot read
        assert 400 <= answer.status_code < (500 if is_ours else 501), answer.text
        assert answer.json()["error"]
        good = http.post("/v2/models/sentiment/infer", json={"inputs": [GOOD]})
        assert good.status_code == 200
        assert next(one for one in good.json()["outputs"] if one["name"] == "label")["data"] == ["positive"]
