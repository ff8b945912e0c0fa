"""Time a bundle behind HTTP and without it: many clients that each send a text and wait for its label.

`library` is `AsyncClassifier` in a process of its own, its callers in the same event loop; `serve` is `q8bert serve`,
asked over connections that stay open by a process of its own; `--triton ENVIRONMENT` adds NVIDIA Triton on what
`q8bert triton --backend python` writes, as tools/pip_triton.py runs it; `--server NAME=HOST:PORT` adds one that runs
already and speaks the same protocol, with the model called as `--model` says. They take turns, so that they meet the
same noise.
Texts are random words, of lengths drawn from a lognormal distribution, the same for all. A client sends its next text
when it has its answer, so this is the most that a server can do; clients and server share the cores.

    python tools/bench_serving.py build/bench/minilm-l6-SST-2/int8 --rounds 3 --seconds 8
"""

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pip_triton
from bench_machine import machine

_WORDS = ["the", "a", "of", "and", "in", "film", "story", "people", "time", "good", "bad", "never", "house", "number"]
_MEAN, _DEVIATION, _LONGEST = 2.6, 0.7, 100  # of the logarithm of a text's words; their median is 13
_WARM_UP_S = 1.0
_START_S = 120


def make_texts(n: int, *, seed: int) -> list[str]:
    """Return texts of random lengths."""
    rng = random.Random(seed)
    lengths = (min(_LONGEST, 1 + round(rng.lognormvariate(_MEAN, _DEVIATION))) for _ in range(n))
    return [" ".join(rng.choices(_WORDS, k=length)) for length in lengths]


# ---- the clients --------------------------------------------------------------------------------


class Clock:
    """When to stop, and how long the requests took that ended after the warm-up."""

    def __init__(self, seconds: float) -> None:
        now = time.monotonic()
        self.begins, self.ends = now + _WARM_UP_S, now + _WARM_UP_S + seconds
        self.latencies_ms: list[float] = []
        self.n_errors = 0

    def is_over(self) -> bool:
        """Whether no client is to send any more."""
        return time.monotonic() >= self.ends

    def note(self, started: float, *, is_good: bool) -> None:
        """Take in a request that ended now."""
        now = time.monotonic()
        if self.begins <= now <= self.ends:
            self.latencies_ms.append(1000 * (now - started))
            self.n_errors += not is_good


async def drive_library(bundle: str, texts: Sequence[str], *, n_clients: int, seconds: float) -> Clock:
    """Ask `AsyncClassifier` in this process."""
    from q8bert.runtime import AsyncClassifier, Classifier, RuntimeOptions

    classifier = Classifier.load(bundle, options=RuntimeOptions.service())
    async with AsyncClassifier(classifier) as service:
        clock = Clock(seconds)

        async def client(number: int) -> None:
            while not clock.is_over():
                started = time.monotonic()
                answer = await service(texts[number % len(texts)])
                clock.note(started, is_good=answer.label is not None or answer.score is not None)
                number += n_clients

        await asyncio.gather(*map(client, range(n_clients)))
        return clock


async def drive_http(url: str, model: str, texts: Sequence[str], *, n_clients: int, seconds: float) -> Clock:
    """Ask a server over connections that stay open."""
    host, port = url.rsplit(":", 1)
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(n_clients)]
    clock = Clock(seconds)

    async def client(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not clock.is_over():
            request = _request(url, model, texts[number % len(texts)])
            started = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(length)
            clock.note(started, is_good=head.startswith(b"HTTP/1.1 200 "))
            number += n_clients
        writer.close()

    await asyncio.gather(*(client(number, *pair) for number, pair in enumerate(opened)))
    return clock


def _request(url: str, model: str, text: str) -> bytes:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {url}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def child(options: argparse.Namespace) -> None:
    """Be the clients of one turn, and print what they saw."""
    texts = make_texts(options.n_texts, seed=options.seed)
    more = {"n_clients": options.clients, "seconds": options.seconds}
    if options.url:
        clock = asyncio.run(drive_http(options.url, options.model, texts, **more))
    else:
        clock = asyncio.run(drive_library(options.bundle, texts, **more))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "latencies_ms": [round(one, 3) for one in clock.latencies_ms],
        "n_errors": clock.n_errors,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }
    sys.stdout.write(json.dumps(found))


# ---- the turns ----------------------------------------------------------------------------------


@contextmanager
def served(bundle: str, arguments: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run `q8bert serve`; gives its address and its process."""
    code = "from q8bert.runtime.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", f"model={bundle}", "--port", "0", "--log-level", "info", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if '"listening"' in line:
                break
        else:
            raise SystemExit("q8bert serve did not start")
        # what it writes from now on goes nowhere, as into a collector of logs
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        yield json.loads(line)["addresses"][0].removeprefix("http://"), process.pid
        process.terminate()
        process.wait(timeout=60)
        drain.wait(timeout=60)
    finally:
        process.kill()
        process.wait()


@contextmanager
def in_triton(bundle: Path, environment: Path, arguments: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run Triton on a repository of the bundle; gives its address and its process."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        code = "from q8bert.runtime.cli import main; main()"
        command = [sys.executable, "-c", code, "triton", f"model={bundle}", "--output-dir", str(repository)]
        subprocess.run([*command, "--backend", "python", *arguments], check=True, stdout=subprocess.DEVNULL)
        with pip_triton.run(pip_triton.Place(environment.resolve()), repository) as running:
            yield running.url, running.process.pid


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children so far."""
    # of each thread: a server may start its helpers from any
    children = [one for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text("ascii").split()]
    ticks = 0
    for one in (str(pid), *children):
        fields = Path(f"/proc/{one}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def turn(options: argparse.Namespace, *, url: str | None, pid: int | None) -> dict[str, Any]:
    """Let the clients ask once; returns what they saw, and the CPU time of who answered."""
    command = [sys.executable, __file__, str(options.bundle), "--child", "--model", options.model]
    command += ["--clients", str(options.clients), "--seconds", str(options.seconds), "--seed", str(options.seed)]
    before = cpu_seconds(pid) if pid else 0.0
    done = subprocess.run(
        [*command, *(["--url", url] if url else [])], capture_output=True, text=True, check=True, timeout=_START_S + 600
    )
    found: dict[str, Any] = json.loads(done.stdout)
    found["server_cpu_s"] = cpu_seconds(pid) - before if pid else found["cpu_s"] if not url else None
    return found


def summary(turns: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Make figures of the turns of one contender: the median of the turns' rates, and quantiles of all latencies."""
    rates = sorted(len(one["latencies_ms"]) / seconds for one in turns)
    latencies = sorted(value for one in turns for value in one["latencies_ms"])
    known = [one for one in turns if one["server_cpu_s"] is not None]
    n_rows = sum(len(one["latencies_ms"]) for one in known) * (1 + _WARM_UP_S / seconds)
    return {
        "rows_per_s": rates[len(rates) // 2],
        "rates": [round(rate, 1) for rate in rates],
        "p50_ms": latencies[len(latencies) // 2],
        "p99_ms": latencies[int(0.99 * (len(latencies) - 1))],
        "n_rows": len(latencies),
        "n_errors": sum(one["n_errors"] for one in turns),
        "server_cpu_ms_per_row": 1000 * sum(one["server_cpu_s"] for one in known) / n_rows if known else None,
    }


def main() -> None:
    """Run the turns and print figures."""
    options = _options()
    if options.child:
        child(options)
        return
    found: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        contenders: list[tuple[str, str | None, int | None]] = [("library", None, None)]
        contenders.append(("serve", *stack.enter_context(served(str(options.bundle), options.serve_options.split()))))
        if options.triton is not None:
            running = in_triton(options.bundle, options.triton, options.triton_options.split())
            contenders.append(("triton", *stack.enter_context(running)))
        contenders += [(name, url, None) for name, _, url in (one.partition("=") for one in options.server)]
        for number in range(options.rounds):
            for name, url, pid in contenders if number % 2 == 0 else contenders[::-1]:
                found.setdefault(name, []).append(turn(options, url=url, pid=pid))
                sys.stderr.write(f"round {number + 1}: {name}, {len(found[name][-1]['latencies_ms'])} rows\n")
    figures = {name: summary(turns, options.seconds) for name, turns in found.items()}
    report = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("q8bert", "onnxruntime", "uvicorn", "fastapi")},
        "clients": options.clients,
        "seed": options.seed,
        "figures": figures,
    }
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    print("| | rows a second | p50 ms | p99 ms | CPU ms a row | errors |\n|---|---|---|---|---|---|")
    for name, one in figures.items():
        cpu = "" if one["server_cpu_ms_per_row"] is None else f"{one['server_cpu_ms_per_row']:.2f}"
        rates = f"{one['rows_per_s']:.0f} ({one['rates'][0]:.0f} to {one['rates'][-1]:.0f})"
        print(f"| {name} | {rates} | {one['p50_ms']:.0f} | {one['p99_ms']:.0f} | {cpu} | {one['n_errors']} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn, without its warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-texts", type=int, default=5000)
    parser.add_argument("--server", nargs="*", default=[], metavar="NAME=HOST:PORT")
    parser.add_argument("--model", default="model", help="what the servers call it")
    parser.add_argument("--serve-options", default="", help="more options of `q8bert serve`")
    parser.add_argument("--triton", type=Path, metavar="ENVIRONMENT", help="where NVIDIA Triton is installed")
    parser.add_argument("--triton-options", default="", help="more options of `q8bert triton`")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
