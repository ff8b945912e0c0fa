"""What ``q8bert triton`` writes, run by NVIDIA Triton itself. What all servers have in common is asked in test_protocol.

Triton as it is installed here has no backend for ONNX Runtime, so the model's step runs on our runtime; tokenizer,
labels and the ensemble are the same for both. tests/runtime/triton asks the rest of the other variant.
"""

import queue
import shutil
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from q8bert.runtime import Classifier

pytest.importorskip("grpc")  # or the line after the next raises something else
http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")
httpx = pytest.importorskip("httpx")
utils = pytest.importorskip("tritonclient.utils")

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
TEXTS = ["a good film", "dull , dull", "ünï 日本 😀", "the " * 50, "", "clever actors and a very great plot"]
PAIRS = [("a good film", "a great film"), ("dull", "the clever plot"), ("x", "y " * 40)]
N_ROWS = 32


@pytest.fixture(scope="module")
def server(triton: ModuleType, bundles: dict[str, Path]) -> Iterator[Any]:
    with triton.start(bundles, "--refuse-long", "--max-characters", 2000) as running:
        yield running


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with grpc.InferenceServerClient(server.grpc_url) as made:
        yield made


def texts(module: ModuleType, name: str, values: Sequence[str | bytes]) -> Any:
    tensor = module.InferInput(name, [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_).reshape(-1, 1))
    return tensor


def probabilities(classifier: Classifier, rows: Sequence[str]) -> list[list[float]]:
    return [[*(one.probabilities or {}).values()] for one in classifier(rows)]


def body(rows: Sequence[str]) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(rows), 1], "data": [*rows]}]}


def output(answer: Any, name: str) -> list[Any]:
    found: list[Any] = next(one for one in answer.json()["outputs"] if one["name"] == name)["data"]
    return found


# ---- answers ------------------------------------------------------------------------------------


def test_answers_over_grpc_are_the_librarys(client: Any, library: dict[str, Classifier]) -> None:
    short = [text for text in TEXTS if len(text) < 100]
    result = client.infer("sentiment", [texts(grpc, "text", short)])
    np.testing.assert_allclose(
        result.as_numpy("probabilities"), probabilities(library["sentiment"], short), atol=TOLERANCE
    )
    assert [one.decode() for one in result.as_numpy("label").ravel()] == [
        one.label for one in library["sentiment"](short)
    ]
    pairs = PAIRS[:2]
    first, second = zip(*pairs, strict=True)
    scores = client.infer("similarity", [texts(grpc, "text", first), texts(grpc, "text_pair", second)])
    np.testing.assert_allclose(
        scores.as_numpy("score").ravel(), [one.score for one in library["similarity"](pairs)], atol=5 * TOLERANCE
    )


def test_the_file_of_labels_names_the_most_probable_ones(client: Any, library: dict[str, Classifier]) -> None:
    wanted = grpc.InferRequestedOutput("probabilities", class_count=1)
    result = client.infer("sentiment", [texts(grpc, "text", TEXTS[:2])], outputs=[wanted])
    found = [one.decode().split(":") for one in result.as_numpy("probabilities").ravel()]
    expected = [one for one in library["sentiment"](TEXTS[:2]) if one.probabilities]
    assert [label for _, _, label in found] == [one.label for one in expected]
    assert [float(value) for value, _, _ in found] == pytest.approx(
        [max((one.probabilities or {}).values()) for one in expected], abs=TOLERANCE
    )


def test_requests_of_any_lengths_are_batched_together_and_keep_their_answers(
    server: Any, client: Any, library: dict[str, Classifier]
) -> None:
    rows = [" ".join(["good", "dull", "film", "the"][(at + word) % 4] for word in range(at % 25)) for at in range(120)]
    done: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for at, row in enumerate(rows):
        client.async_infer(
            "sentiment", [texts(grpc, "text", [row])], lambda result, error, at=at: done.put((at, result, error))
        )
    expected = probabilities(library["sentiment"], rows)
    for _ in rows:
        at, result, error = done.get(timeout=60)
        assert error is None, error
        np.testing.assert_allclose(result.as_numpy("probabilities"), [expected[at]], atol=TOLERANCE)
    statistics = client.get_inference_statistics("sentiment-model", as_json=True)["model_stats"][0]
    assert int(statistics["execution_count"]) < int(statistics["inference_count"]), "Triton made batches"


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([b"good", b"caf\xe9"], "row 1 of text is not UTF-8, at its byte 3"),
        (["good", "the " * 200], "row 1 has more than the 32 tokens"),
        (["x" * 2001], "row 0 has 2001 characters, and at most 2000 are taken"),
        (["good"] * (N_ROWS + 1), "batch-size must be <= 32"),
    ],
    ids=["no UTF-8", "too long", "too many characters", "too many rows"],
)
def test_a_request_that_does_not_fit_fails_alone(server: Any, rows: list[str | bytes], words: str) -> None:
    with (
        http.InferenceServerClient(server.url) as over_http,
        grpc.InferenceServerClient(server.grpc_url) as over_grpc,
    ):
        for module, client, status in ((http, over_http, "400"), (grpc, over_grpc, "StatusCode.INVALID_ARGUMENT")):
            with pytest.raises(utils.InferenceServerException, match=words) as caught:
                client.infer("sentiment", [texts(module, "text", rows)])
            assert caught.value.status() == status
            assert client.infer("sentiment", [texts(module, "text", ["good"])]).as_numpy("label").shape == (1, 1)


def test_a_request_that_waited_too_long_is_told_so(server: Any, client: Any) -> None:
    # a microsecond is over before any instance can look
    with pytest.raises(utils.InferenceServerException, match="timeout expired") as caught:
        client.infer("sentiment", [texts(grpc, "text", ["good"])], timeout=1)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    answer = httpx.post(
        f"http://{server.url}/v2/models/sentiment/infer", json={**body(["good"]), "parameters": {"timeout": 1}}
    )
    assert (answer.status_code, "timeout expired" in answer.json()["error"]) == (503, True)


def test_a_full_queue_refuses_and_what_it_took_is_answered(
    triton: ModuleType, bundles: dict[str, Path], library: dict[str, Classifier]
) -> None:
    rows = ["good film"] * N_ROWS
    expected = probabilities(library["sentiment"], rows)
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.start({"sentiment": bundles["sentiment"]}, "--max-queue", 4) as server:
        with grpc.InferenceServerClient(server.grpc_url) as client:
            for _ in range(200):
                client.async_infer(
                    "sentiment", [texts(grpc, "text", rows)], lambda result, error: done.put((result, error))
                )
            outcomes = [done.get(timeout=60) for _ in range(200)]
        answered = [result for result, error in outcomes if error is None]
        assert 0 < len(answered) < len(outcomes)
        for result in answered:
            np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=TOLERANCE)
        for error in (error for _, error in outcomes if error is not None):
            assert error.status() == "StatusCode.UNAVAILABLE"
            assert "Exceeds maximum queue size" in error.message()

        def post(_: int) -> Any:
            with httpx.Client(base_url=f"http://{server.url}", timeout=60) as one:
                return one.post("/v2/models/sentiment/infer", json=body(rows))

        with ThreadPoolExecutor(64) as pool:
            answers = [*pool.map(post, range(128))]
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert "Exceeds maximum queue size" in answer.json()["error"]
            else:
                np.testing.assert_allclose(output(answer, "probabilities"), np.ravel(expected), atol=TOLERANCE)
        assert post(0).status_code == 200, "and goes on"


# ---- the end, and a new version -----------------------------------------------------------------


@contextmanager
def callers(server: Any, rows: Sequence[str], count: int) -> Iterator[tuple[list[Any], threading.Event]]:
    """Some clients that ask again and again until they are told to stop; what each of their requests came to."""
    outcomes: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=f"http://{server.url}", timeout=60) as client:
            while not stop.is_set():
                try:
                    outcomes.append(client.post("/v2/models/sentiment/infer", json=body(rows)))
                except httpx.HTTPError as error:
                    outcomes.append(error)
                    return

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes, stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)


def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_sigterm_answers_what_came_and_takes_no_more(triton: ModuleType, bundles: dict[str, Path]) -> None:
    with triton.start({"sentiment": bundles["sentiment"]}) as server:
        with callers(server, ["good film"] * N_ROWS, 16) as (outcomes, stop):
            until(lambda: len(outcomes) > 50)
            server.process.terminate()
            until(lambda: "Waiting for in-flight" in server.text() or "HTTP service connections" in server.text())
            with pytest.raises((urllib.error.HTTPError, OSError)):  # for balancers
                urlopen(f"http://{server.url}/v2/health/ready", timeout=5)
            stop.set()
        assert server.process.wait(timeout=60) == 0
        assert len(outcomes) > 50
        assert [getattr(one, "status_code", one) for one in outcomes] == [200] * len(outcomes)


def test_a_new_version_takes_over_without_a_failed_or_mixed_answer(
    triton: ModuleType, small: Any, tmp_path: Path
) -> None:
    rows = TEXTS[:3]
    versions = {"1": small.bundle("SST-2", "int8"), "2": small.bundle("SST-2", "float32")}
    expected = {
        version: np.ravel(probabilities(Classifier.load(path, threads=1), rows)) for version, path in versions.items()
    }
    assert np.abs(expected["1"] - expected["2"]).max() > 100 * TOLERANCE, "they can be told apart"
    repository = tmp_path / "repository"
    triton.write(repository, {"sentiment": versions["1"]}, "--backend", "python")
    before = everything(repository)
    with (
        triton.run(repository, "--model-control-mode=poll", "--repository-poll-secs=1") as server,
        callers(server, rows, 4) as (outcomes, stop),
    ):
        until(lambda: len(outcomes) > 20)
        # what a writer leaves behind that dies before the ensemble: steps of a version that is none yet
        done = tmp_path / "done"
        shutil.copytree(repository, done)
        triton.write(done, {"sentiment": versions["2"]}, "--backend", "python")
        steps = [f"sentiment-{step}" for step in ("labels", "model", "tokenizer")]
        for step in steps:
            shutil.copytree(done / step / "2", repository / step / "2")
        with http.InferenceServerClient(server.url) as client:
            until(lambda: all(client.is_model_ready(step, "2") for step in steps))
        n_before = len(outcomes)
        until(lambda: len(outcomes) > n_before + 20)
        assert {version(one) for one in outcomes} == {"1"}
        triton.write(repository, {"sentiment": versions["2"]}, "--backend", "python")
        until(lambda: any(version(one) == "2" for one in outcomes[-8:]))
        n_before = len(outcomes)
        until(lambda: len(outcomes) > n_before + 20)
        stop.set()
    assert {version(one) for one in outcomes} == {"1", "2"}
    for one in outcomes:
        np.testing.assert_allclose(output(one, "probabilities"), expected[version(one)], atol=TOLERANCE)
    after = everything(repository)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"sentiment/config.pbtxt"}, "the older version is as it was"


def version(answer: Any) -> str:
    assert not isinstance(answer, Exception), answer
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


def everything(folder: Path) -> Mapping[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what is damaged ----------------------------------------------------------------------------


def test_a_damaged_bundle_is_not_served(triton: ModuleType, bundles: dict[str, Path], tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    triton.write(repository, {"python": bundles["sentiment"]}, "--backend", "python")
    triton.write(repository, {"onnx": bundles["sentiment"], "whole": bundles["sentiment"]}, "--backend", "onnxruntime")
    for name in ("python-model/1/model.onnx", "onnx-model/1/model.onnx", "whole-tokenizer/1/tokenizer.json"):
        content = bytearray((repository / name).read_bytes())
        content[len(content) // 2] ^= 1
        (repository / name).write_bytes(content)
    with (
        triton.run(repository, "--model-control-mode=explicit", until="live") as server,
        http.InferenceServerClient(server.url, network_timeout=60) as client,
    ):
        client.load_model("onnx-labels")
        assert client.is_model_ready("onnx-labels")
        for name, words in (
            ("python-model", "model.onnx has SHA-256"),
            ("onnx-tokenizer", "model.onnx has SHA-256"),
            ("whole-tokenizer", "tokenizer.json has SHA-256"),
        ):
            with pytest.raises(utils.InferenceServerException, match=words):
                client.load_model(name)
            assert not client.is_model_ready(name)
