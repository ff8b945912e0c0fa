"""The server's process: its end, its neighbours on the same port, and what keeps it from starting."""

import concurrent.futures
import importlib.util
import json
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from q8bert.runtime import Classifier
from q8bert.runtime.cli import build_app

httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow

INFER = "/v2/models/sentiment/infer"
GOOD = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}]}


def until(true: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_every_request_that_was_taken_is_answered_before_the_end(
    ourselves: ModuleType,
    bundles: dict[str, Path],
    loads: ModuleType,
    library: dict[str, Classifier],
    how: signal.Signals,
) -> None:
    with ourselves.start(bundles, "--json") as running, loads.load(running.url, n_clients=24) as load:
        loads.wait_for(load, 300)
        assert running.end(how) == 0
        report = json.loads(running.output.read_text(encoding="utf-8"))
        logged = {line["id"]: line["status"] for line in running.lines() if line["event"] == "request"}
    answered = {one.name: one.status for one in load.ended if one.status is not None}
    assert set(answered.values()) == {200}
    assert logged == answered
    assert report["outcomes"] == {"answered": len(answered)}
    assert report["drained"] is True
    lost = [one for one in load.ended if one.status is None]
    # one may have connected in the instant between the last look for connections and the closing of the port
    assert len(lost) <= 1
    assert all(one.is_first for one in lost), lost
    texts = {one.text: loads.probabilities(one.answer) for one in load.ended if one.status == 200}
    for (text, given), expected in zip(texts.items(), library["sentiment"]([*texts]), strict=True):
        assert given == pytest.approx([*(expected.probabilities or {}).values()], abs=1e-5), text


def test_rows_that_wait_are_answered_and_others_refused(ourselves: ModuleType, bundles: dict[str, Path]) -> None:
    with (
        ourselves.start(bundles, "--max-delay-ms", 2000, "--leave", 1) as running,
        httpx.Client(base_url=f"http://{running.url}", timeout=60) as http,
    ):
        host, port = running.url.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as waiting:
            body = json.dumps(GOOD).encode()
            waiting.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: 'q8bert_queue_rows{model="sentiment",version="1"} 1.0' in http.get("/metrics").text)
            running.process.send_signal(signal.SIGTERM)
            until(lambda: http.get("/v2/health/ready").status_code == 503)
            assert http.get("/v2/health/live").headers["Connection"] == "close"
            received = b""
            while chunk := waiting.recv(65536):
                received += chunk
        assert received.startswith(b"HTTP/1.1 200 ")
        assert running.process.wait(timeout=60) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)


def test_what_takes_longer_than_the_limit_is_told_so(ourselves: ModuleType, bundles: dict[str, Path]) -> None:
    n_rows = 4_000  # a second of work, of which a tenth of one is granted
    many = {"inputs": [{**GOOD["inputs"][0], "shape": [n_rows, 1], "data": ["good " * 25] * n_rows}]}
    options = ("--max-rows", n_rows, "--max-queue", n_rows, "--drain", 0.1, "--workers", 1, "--json")
    with (
        ourselves.start(bundles, *options) as running,
        httpx.Client(base_url=f"http://{running.url}", timeout=60) as http,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(httpx.post, f"http://{running.url}{INFER}", json=many, timeout=60)
        until(lambda: 'q8bert_queue_rows{model="sentiment",version="1"} 0.0' not in http.get("/metrics").text)
        assert running.end() == 0
        answer = waiting.result()
        assert answer.status_code == 503
        assert "closed before" in answer.json()["error"]
        assert json.loads(running.output.read_text(encoding="utf-8"))["drained"] is False


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system shares no ports")
def test_processes_share_a_port_and_one_that_is_killed_takes_no_other_along(
    ourselves: ModuleType, bundles: dict[str, Path], loads: ModuleType
) -> None:
    with ourselves.start(bundles, "--reuse-port", "--own-port", 0) as one:
        port = int(one.url.split(":")[1])
        with ourselves.start(bundles, "--reuse-port", port=port) as other:
            with loads.load(one.url, n_clients=16, retries=True) as load:
                loads.wait_for(load, 200)
                one.process.kill()
                one.process.wait(timeout=60)
                loads.wait_for(load, 200)
            # as any client of several servers, these ask again where a connection breaks
            assert {ended.status for ended in load.ended} == {200}
            assert [line for line in one.lines() if line.get("id")], "the one had a share of it"
            assert [line for line in other.lines() if line.get("id")]
            assert other.end() == 0


def test_a_port_of_its_own_answers_too(ourselves: ModuleType, bundles: dict[str, Path]) -> None:
    with ourselves.start(bundles, "--own-port", 0) as running:
        addresses = next(line["addresses"] for line in running.lines() if line["message"] == "listening")
        assert len(set(addresses)) == 2
        for address in addresses:
            assert httpx.get(f"{address}/v2/health/ready").json() == {"ready": True}


# ---- what keeps it from starting ----------------------------------------------------------------


def started(*arguments: object) -> Result:
    """Run the command in this process; it has to end by itself."""
    return CliRunner().invoke(build_app(), ["serve", "--port", "0", *map(str, arguments)])


def test_a_port_that_is_taken_is_said(ourselves: ModuleType, bundles: dict[str, Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = started(bundles["sentiment"], "--port", taken.getsockname()[1])
    assert done.exit_code == 2
    assert "cannot listen on 127.0.0.1 port" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--token-file", "missing"], "missing: No such file or directory"),
        (["--token-file", "empty"], "empty is empty"),
        (["--token-file", "empty", "--token-env", "X"], "not both"),
        (["--token-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        (["--token-env", "TWO_WORDS"], "one word of printable ASCII"),
        (["--max-rows", "9", "--max-queue", "8", "--timeout", "0"], "timeout_s must be above 0"),
        (["--max-rows", "9", "--max-queue", "8"], "max_rows must be at most max_queue"),
        (["--log-level", "loud"], "log_level must be one of debug, info, warning, error"),
        (["--engine", "torch"], "engine must be"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["other=elsewhere"], "elsewhere is neither a bundle"),
        (["broken"], "model.onnx has"),
        (["sentiment=broken"], "2 models are called 'sentiment'"),
    ],
)
def test_what_does_not_fit_is_said_and_the_code_is_2(
    ourselves: ModuleType,
    small: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWO_WORDS", "two words")
    for name in ("sentiment", "broken"):
        shutil.copytree(small.bundle("SST-2", "int8"), tmp_path / name)
    (tmp_path / "broken" / "model.onnx").write_bytes(b"half")
    (tmp_path / "empty").write_text("\n")
    done = started("sentiment", *arguments)
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr
    assert "two words" not in done.stderr.replace("one word", "")


def test_a_missing_extra_is_named(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "uvicorn" else find(name))
    done = started(small.bundle("SST-2", "int8"))
    assert done.exit_code == 2
    assert 'pip install "q8bert[serve]"' in done.stderr
