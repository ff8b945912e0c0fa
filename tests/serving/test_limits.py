"""What a server does with too much, too slow and too late: it says so, and serves the others."""

import concurrent.futures
import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow

GOOD = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}]}
INFER = "/v2/models/sentiment/infer"
# rows wait so long for others that a test can do something meanwhile
LONG_DELAY_MS = 1500


def rows(number: int) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [number, 1], "data": ["good"] * number}]}


@contextmanager
def serving(
    ourselves: ModuleType, bundles: dict[str, Path], *options: object, **more: Any
) -> Iterator[tuple[Any, Any]]:
    """A server, and a client of it."""
    with (
        ourselves.start(bundles, *options, **more) as running,
        httpx.Client(base_url=f"http://{running.url}", timeout=60) as http,
    ):
        yield running, http


def connected(url: str) -> socket.socket:
    host, port = url.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(length: int) -> bytes:
    return f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def everything(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def until(true: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def metric(http: Any, name: str, **labels: str) -> float:
    """Return one value of /metrics, read by Prometheus's own parser; 0 where it is not there."""
    parser = pytest.importorskip("prometheus_client.parser")
    found = [
        sample.value
        for family in parser.text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found)


# ---- too much -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_limits(ourselves: ModuleType, bundles: dict[str, Path]) -> Iterator[tuple[Any, Any]]:
    options = (
        "--max-body-bytes", 20_000, "--max-rows", 8, "--max-queue", 8, "--max-characters", 5000,
        "--max-buffered-bytes", 50_000, "--max-connections", 40, "--read-timeout", 2, "--keep-alive", 3,
    )  # fmt: skip
    with serving(ourselves, bundles, *options) as both:
        yield both


@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "in pieces"])
@pytest.mark.parametrize("n_bytes", [20_001, 100_000, 5_000_000])
def test_a_body_that_is_too_long_is_refused(small_limits: Any, *, is_announced: bool, n_bytes: int) -> None:
    _, http = small_limits
    content = b"x" * n_bytes if is_announced else iter([b"x" * 1000] * (n_bytes // 1000 + 1))
    try:
        answer = http.post(INFER, content=content)
    except httpx.WriteError:
        # of what is far too long no more is read than some times the limit, and the rest cannot be sent
        assert n_bytes > 8 * 20_000
    else:
        assert answer.status_code == 413
        assert "20000 bytes" in answer.json()["error"]
    assert http.post(INFER, json=GOOD).status_code == 200


def test_a_small_body_that_unpacks_to_gigabytes_is_refused(small_limits: Any) -> None:
    _, http = small_limits
    bomb = gzip.compress(b" " * 10_000_000)
    assert len(bomb) < 20_000
    assert http.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"}).status_code == 413


@pytest.mark.parametrize(
    ("packing", "content", "status"),
    [
        ("gzip", gzip.compress(json.dumps(GOOD).encode(), mtime=0), 200),
        ("gzip", b"no gzip at all", 400),
        ("gzip", gzip.compress(json.dumps(GOOD).encode(), mtime=0)[:-5], 400),
        ("gzip", gzip.compress(json.dumps(GOOD).encode(), mtime=0) + b"more", 400),
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
    ],
)
def test_packed_bodies(small_limits: Any, packing: str, content: bytes, status: int) -> None:
    _, http = small_limits
    assert http.post(INFER, content=content, headers={"Content-Encoding": packing}).status_code == status


def test_too_many_rows_and_too_long_rows_are_refused(small_limits: Any) -> None:
    _, http = small_limits
    assert http.post(INFER, json=rows(8)).status_code == 200
    many = http.post(INFER, json=rows(9))
    assert (many.status_code, "at most 8" in many.json()["error"]) == (400, True)
    row = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": ["good", "x" * 5001]}
    long = http.post(INFER, json={"inputs": [row]})
    assert long.status_code == 400
    assert long.json()["error"].startswith("row 1: the row has 5001 characters")


def test_bodies_share_their_memory(small_limits: Any) -> None:
    running, http = small_limits
    slow = [connected(running.url) for _ in range(3)]
    for one in slow:  # 3 times 19 kB are more than 50 kB
        one.sendall(head(19_500) + b" " * 19_000)
    status = sorted(int(everything(one).split(b" ")[1]) for one in slow)
    for one in slow:
        one.close()
    assert status == [408, 408, 503]
    assert http.post(INFER, json=GOOD).status_code == 200
    assert metric(http, "q8bert_body_bytes") == 0


def test_connections_are_bounded(small_limits: Any) -> None:
    running, http = small_limits
    held = [connected(running.url) for _ in range(40)]
    try:
        refused = connected(running.url)
        answer = everything(refused)
        refused.close()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After" in answer
    finally:
        for one in held:
            one.close()

    def answers() -> bool:
        return bool(http.get("/v2/health/live").status_code == 200)

    until(answers)


# ---- too slow -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v2/health/live HTTP/1.1\r\nHost:", b"\x16\x03\x01"], ids=["nothing", "half a head", "TLS"]
)
def test_who_sends_no_head_is_closed(small_limits: Any, sent: bytes) -> None:
    running, _ = small_limits
    with connected(running.url) as connection:
        connection.sendall(sent)
        received = everything(connection)
    assert received == b"" or received.startswith(b"HTTP/1.1 400 ")


def test_who_sends_a_head_byte_by_byte_is_closed_all_the_same(small_limits: Any) -> None:
    running, _ = small_limits
    with connected(running.url) as connection, pytest.raises(OSError, match=r".+"):
        for _ in range(200):  # 20 s, of which one is granted
            connection.sendall(b"x")
            time.sleep(0.1)


def test_a_body_that_does_not_come_is_a_timeout(small_limits: Any) -> None:
    running, http = small_limits
    with connected(running.url) as connection:
        connection.sendall(head(100) + b'{"inputs"')
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert http.post(INFER, json=GOOD).status_code == 200


def test_no_http_at_all_is_refused(small_limits: Any) -> None:
    running, http = small_limits
    with connected(running.url) as connection:
        connection.sendall(b"\x00\xff\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 400 ")
    assert http.get("/v2/health/live").status_code == 200


def test_who_reads_no_answers_is_closed(small_limits: Any) -> None:
    running, http = small_limits
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        host, port = running.url.split(":")
        connection.connect((host, int(port)))
        with pytest.raises(OSError, match=r".+"):  # reset: megabytes of answers were asked for, and none was read
            for _ in range(100):
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
                time.sleep(0.1)
    assert http.post(INFER, json=GOOD).status_code == 200
    until(lambda: metric(http, "q8bert_requests_in_flight") == 1)  # the one that asks


def test_a_long_body_is_refused_before_it_is_sent_where_the_client_asks(small_limits: Any) -> None:
    running, _ = small_limits
    with connected(running.url) as connection:
        connection.sendall(head(30_000).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
        assert connection.recv(12) == b"HTTP/1.1 413"
    body = json.dumps(GOOD).encode()
    with connected(running.url) as connection:
        connection.sendall(head(len(body)).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
        assert connection.recv(12) == b"HTTP/1.1 100"
        connection.sendall(body)
        time.sleep(0.2)
        assert b"HTTP/1.1 200 " in connection.recv(65536)


@pytest.mark.parametrize(
    "more",
    [
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Bad Header: x",
        b"X: a\x00b",
    ],
    ids=["two lengths", "two encodings", "a space in a name", "a zero byte"],
)
def test_heads_that_two_servers_could_read_differently_are_refused(small_limits: Any, more: bytes) -> None:
    running, _ = small_limits
    with connected(running.url) as connection:
        connection.sendall(head(10).replace(b"Host: x", b"Host: x\r\n" + more) + b"x" * 10)
        assert everything(connection).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))


def test_requests_behind_one_another_are_answered_in_order(small_limits: Any) -> None:
    running, _ = small_limits
    bodies = [json.dumps({**GOOD, "id": f"n{number}"}).encode() for number in range(20)]
    with connected(running.url) as connection:
        connection.sendall(b"".join(head(len(body)) + body for body in bodies))
        received = everything(connection)  # until the connection has been idle for some seconds
    ids = [line.split(b'"id": "')[1].split(b'"')[0].decode() for line in received.split(b"HTTP/1.1 200 OK")[1:]]
    assert ids == [f"n{number}" for number in range(20)]


# ---- too late -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_delay(ourselves: ModuleType, bundles: dict[str, Path]) -> Iterator[tuple[Any, Any]]:
    with serving(ourselves, bundles, "--max-delay-ms", LONG_DELAY_MS, "--max-rows", 4, "--max-queue", 4) as both:
        yield both


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [({"X-Timeout-Ms": "0.001"}, {}), ({"X-Timeout-Ms": "0"}, {}), ({}, {"timeout": 1})],
    ids=["header", "none left", "parameter"],
)
def test_a_deadline_that_passed_is_said(long_delay: Any, headers: dict[str, str], parameters: dict[str, int]) -> None:
    _, http = long_delay
    answer = http.post(INFER, json={**GOOD, "parameters": parameters}, headers=headers)
    assert answer.status_code == 504
    assert "deadline" in answer.json()["error"]


@pytest.mark.parametrize("given", ["soon", "-1", "nan", ""])
def test_a_deadline_that_is_none_is_refused(long_delay: Any, given: str) -> None:
    _, http = long_delay
    assert http.post(INFER, json=GOOD, headers={"X-Timeout-Ms": given}).status_code == 400


def test_a_full_queue_is_said_at_once_and_everybody_before_it_is_answered(long_delay: Any) -> None:
    _, http = long_delay
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(http.post, INFER, json=rows(2)) for _ in range(2)]
        until(lambda: metric(http, "q8bert_queue_rows", model="sentiment") == 4)
        refused = http.post(INFER, json=GOOD)
        other = http.post("/v2/models/similarity/infer", json=GOOD)  # has a queue of its own
        assert [one.result().status_code for one in taken] == [200, 200]
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"
    assert "4 of 4 rows" in refused.json()["error"]
    assert other.status_code == 400
    assert http.post(INFER, json=rows(4)).status_code == 200


def test_who_goes_away_is_not_computed(long_delay: Any) -> None:
    running, http = long_delay
    before = metric(http, "q8bert_requests_total", outcome="cancelled")
    body = json.dumps(GOOD).encode()
    with connected(running.url) as connection:
        connection.sendall(head(len(body)) + body)
        until(lambda: metric(http, "q8bert_queue_rows", model="sentiment") == 1)
    until(lambda: metric(http, "q8bert_requests_total", outcome="cancelled") == before + 1)
    assert metric(http, "q8bert_queue_rows", model="sentiment") == 0
    assert metric(http, "q8bert_rows_ended_total", model="sentiment", outcome="cancelled") >= 1
    with connected(running.url) as connection:  # in the middle of the body
        connection.sendall(head(len(body)) + body[:10])
    until(lambda: metric(http, "q8bert_requests_total", outcome="cancelled") == before + 2)


# ---- who may ------------------------------------------------------------------------------------

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def guarded(ourselves: ModuleType, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    with serving(ourselves, bundles, "--token-file", file) as both:
        yield both


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer \u00ff", 401),
    ],
)
@pytest.mark.parametrize("path", [INFER, "/v2", "/metrics", "/v2/models/sentiment", "/v2/nothing", "/openapi.json"])
def test_a_token_opens(guarded: Any, path: str, given: str | None, status: int) -> None:
    _, http = guarded
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    answer = http.post(path, json=GOOD, headers=headers) if path == INFER else http.get(path, headers=headers)
    if status == 401:
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    else:
        assert answer.status_code == (404 if path == "/v2/nothing" else 200)


def test_probes_and_the_page_need_none_and_the_log_has_neither_token_nor_text(guarded: Any) -> None:
    running, http = guarded
    assert [http.get(path).status_code for path in ("/", "/v2/health/live", "/v2/health/ready")] == [200] * 3
    secret = {"inputs": [{**GOOD["inputs"][0], "data": ["a text that nobody else is to read"]}]}
    assert http.post(INFER, json=secret, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    log = running.log.read_text(encoding="utf-8")
    assert TOKEN not in log
    assert "nobody else" not in log
    requests = [line for line in running.lines() if line["event"] == "request" and line.get("rows")]
    assert {"time", "level", "method", "path", "status", "outcome", "ms", "client", "model", "version"} <= requests[
        -1
    ].keys()


def test_a_token_of_the_environment(ourselves: ModuleType, bundles: dict[str, Path]) -> None:
    with serving(ourselves, bundles, "--token-env", "SECRET", environment={"SECRET": TOKEN}) as (_, http):
        assert http.get("/v2").status_code == 401
        assert http.get("/v2", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
