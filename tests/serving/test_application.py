"""The application in this process, over a model that can be made to fail or to wait."""

import asyncio
import io
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from q8bert.runtime import Classifier
from q8bert.runtime.predict.classifier import Classifier as LoadedClassifier
from q8bert.text.encoded import Encoded

httpx = pytest.importorskip("httpx")

INFER = "/v2/models/sentiment/infer"
GOOD = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}]}


class Failing(Classifier):
    """A real classifier whose model fails while it is told to, or waits at a gate."""

    def __init__(self, classifier: LoadedClassifier) -> None:
        vars(self).update(vars(classifier))
        self.fails, self.gate = False, threading.Event()
        self.gate.set()

    def outcomes(self, encoded: Encoded, *, batch_size: int = 32) -> Any:
        assert self.gate.wait(timeout=60)
        if self.fails:
            raise RuntimeError("the device is lost")
        return super().outcomes(encoded, batch_size=batch_size)


@pytest.fixture
def run(ourselves: ModuleType, bundles: dict[str, Path], library: dict[str, Classifier]) -> Callable[..., None]:
    """Run something with the application, a client of it, its model and its log."""
    from q8bert.runtime.server.app import Application
    from q8bert.runtime.server.http.logs import open_log
    from q8bert.runtime.server.models.models import Model, Models
    from q8bert.runtime.server.options import ModelOptions, ServerOptions

    def do(test: Callable[..., Coroutine[Any, Any, None]], **options: Any) -> None:
        async def main() -> None:
            stream, models = io.StringIO(), Models()
            classifier = Failing(library["sentiment"])
            served = ServerOptions(**options)
            model = Model(
                ("sentiment", 1), bundles["sentiment"], (), classifier,
                options=ModelOptions(workers=1), max_queue=served.max_queue,
            )  # fmt: skip
            await models.put(model, drain_s=0)
            application = Application(models, options=served, log=open_log(stream, level="info"), version="1")
            transport = httpx.ASGITransport(application.door, raise_app_exceptions=False)
            try:
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                    await test(http, classifier, stream, application)
            finally:
                classifier.gate.set()
                await models.close(drain_s=0)

        asyncio.run(asyncio.wait_for(main(), timeout=120))

    return do


def test_a_model_that_fails_is_told_and_one_that_works_again_too(run: Callable[..., None]) -> None:
    async def test(http: Any, classifier: Failing, stream: io.StringIO, _application: Any) -> None:
        classifier.fails = True
        for _ in range(3):  # as many batches in a row make a model sick
            answer = await http.post(INFER, json=GOOD)
            assert answer.status_code == 500
            assert "the device is lost" in answer.json()["error"]
        for path in ("/v2/health/ready", "/v2/models/sentiment/ready"):
            assert (await http.get(path)).status_code == 503
        assert (await http.get("/v2/health/live")).status_code == 200
        assert (await http.post("/v2/repository/index")).json()[0]["state"] == "UNAVAILABLE"
        metrics = (await http.get("/metrics")).text
        assert 'q8bert_worker_failures_total{model="sentiment",version="1"} 3.0' in metrics
        assert 'q8bert_requests_total{model="sentiment",outcome="failed",version="1"} 3.0' in metrics
        assert 'q8bert_model_healthy{model="sentiment",version="1"} 0.0' in metrics
        classifier.fails = False
        assert (await http.post(INFER, json=GOOD)).status_code == 200
        assert (await http.get("/v2/health/ready")).status_code == 200
        levels = [json.loads(line)["level"] for line in stream.getvalue().splitlines()]
        assert "warning" in levels

    run(test)


def test_the_metrics_are_what_was_done(run: Callable[..., None], library: dict[str, Classifier]) -> None:
    parser = pytest.importorskip("prometheus_client.parser")

    async def test(http: Any, _classifier: Failing, _stream: io.StringIO, _application: Any) -> None:
        texts = ["good", "good good good"]
        rows = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": texts}]}
        assert (await http.post(INFER, json=rows)).status_code == 200
        assert (await http.post(INFER, json={})).status_code == 400
        assert (await http.post("/v2/models/none/infer", json=GOOD)).status_code == 404
        text = (await http.get("/metrics")).text
        values = {
            (sample.name, sample.labels.get("outcome"), sample.labels.get("le")): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("model") in {"sentiment", ""}
        }
        lengths = library["sentiment"].encode(texts).lengths.tolist()
        assert values["q8bert_requests_total", "answered", None] == 1
        assert values["q8bert_requests_total", "invalid", None] == 1
        assert values["q8bert_rows_total", None, None] == 2
        assert values["q8bert_rows_ended_total", "answered", None] == 2
        assert values["q8bert_tokens_total", None, None] == sum(lengths)
        n_batches = values["q8bert_batches_total", None, None]
        assert values["q8bert_padding_tokens_total", None, None] == (
            max(lengths) - min(lengths) if n_batches == 1 else 0
        )
        computed = values["q8bert_tokens_total", None, None] + values["q8bert_padding_tokens_total", None, None]
        assert values["q8bert_padding_share", None, None] == pytest.approx(1 - sum(lengths) / computed)
        assert values["q8bert_queue_seconds_count", None, None] == 2
        assert values["q8bert_queue_seconds_bucket", None, "+Inf"] == 2
        assert values["q8bert_model_seconds_count", None, None] == n_batches
        assert 0 < values["q8bert_model_seconds_sum", None, None] < 60
        assert values["q8bert_request_duration_seconds_count", None, None] == 1

    run(test)


def test_a_deadline_in_the_queue_is_told_while_the_model_is_busy(run: Callable[..., None]) -> None:
    async def test(http: Any, classifier: Failing, _stream: io.StringIO, _application: Any) -> None:
        classifier.gate.clear()
        busy = asyncio.ensure_future(http.post(INFER, json=GOOD))
        late = await http.post(INFER, json=GOOD, headers={"X-Timeout-Ms": "50"})
        assert late.status_code == 504
        classifier.gate.set()
        assert (await busy).status_code == 200

    run(test)


def test_nothing_is_taken_where_the_queue_is_full(run: Callable[..., None]) -> None:
    async def test(http: Any, classifier: Failing, _stream: io.StringIO, application: Any) -> None:
        classifier.gate.clear()
        taken = [asyncio.ensure_future(http.post(INFER, json=GOOD)) for _ in range(4)]
        while application.door.n_inside < 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        refused = await http.post(INFER, json=GOOD)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        classifier.gate.set()
        assert [one.status_code for one in await asyncio.gather(*taken)] == [200] * 4
        assert (await http.post(INFER, json=GOOD)).status_code == 200

    run(test, max_queue=4, max_rows=4)


ODD: list[Any] = [
    None, True, 0, -1, 2.5, float("inf"), float("nan"), "x", [], {}, [[]], "\ud800", "a" * 5000, 10**400, {"a": 1}, ["a", 5],
]  # fmt: skip


def changed(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with odd ones here and there, with less or with more in it."""
    if rng.random() < 0.06:
        return rng.choice(ODD)
    if isinstance(value, dict):
        kept = {key: changed(inner, rng) for key, inner in value.items() if rng.random() > 0.03}
        return kept | (
            {rng.choice(["parameters", "outputs", "id", "other"]): rng.choice(ODD)} if rng.random() < 0.04 else {}
        )
    if isinstance(value, list):
        return [changed(inner, rng) for inner in value] * rng.choice([1, 1, 1, 1, 2])
    return value


def odd_request(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """Return body and headers that were right once."""
    tensor: dict[str, Any] = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": ["good", "bad film"]}
    binary = b""
    if rng.random() < 0.5:
        binary = b"\x04\x00\x00\x00good\x08\x00\x00\x00bad film"
        tensor = {**tensor, "data": None, "parameters": {"binary_data_size": len(binary)}}
    whole = {"id": "a", "parameters": {"timeout": 10**7}, "inputs": [tensor], "outputs": [{"name": "truncated"}]}
    head = json.dumps(changed(whole, rng) if rng.random() < 0.7 else whole).encode()
    lengths = [len(head)] * 5 + [rng.randrange(2 * len(head))]
    body = bytearray(head + binary)
    for _ in range(rng.choice([0, 0, 1, 3])):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body), {"Inference-Header-Content-Length": str(rng.choice(lengths))} if binary else {}


@pytest.mark.parametrize("seed", range(2))
def test_odd_requests_are_answered_or_refused_and_are_no_defect(run: Callable[..., None], seed: int) -> None:
    async def test(http: Any, _classifier: Failing, stream: io.StringIO, _application: Any) -> None:
        rng, seen = random.Random(seed), Counter[int]()
        for _ in range(400):
            body, headers = odd_request(rng)
            answer = await http.post(INFER, content=body, headers=headers)
            seen[answer.status_code] += 1
            assert answer.status_code in {200, 400}, (body, answer.text)
            content = answer.json()
            assert "outputs" in content if answer.status_code == 200 else content["error"]
        assert min(seen[200], seen[400]) > 25, "both were tried"
        assert '"level": "error"' not in stream.getvalue()

    run(test)


def test_a_defect_is_an_answer_too(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    from q8bert.runtime.server import inference

    async def test(http: Any, _classifier: Failing, stream: io.StringIO, _application: Any) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a secret of the code")

        monkeypatch.setattr(inference, "answer_body", broken)
        answer = await http.post(INFER, json=GOOD)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "a secret of the code" in stream.getvalue()
        monkeypatch.undo()
        assert (await http.post(INFER, json=GOOD)).status_code == 200

    run(test)


def test_addresses_that_are_none(run: Callable[..., None]) -> None:
    async def test(http: Any, *_: object) -> None:
        for path, status in (("/nothing", 404), ("/v2/models", 404), ("/v2/models//infer", 404), ("/docs", 404)):
            answer = await http.get(path)
            assert answer.status_code == status, path
            assert answer.json()["error"]
        wrong = await http.get(INFER)
        assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
        described = (await http.get("/openapi.json")).json()
        assert "/v2/models/{name}/infer" in described["paths"]

    run(test)
