"""``q8bert serve`` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# for a start on a busy machine
START_S = 90
END_S = 60


@dataclass
class Running:
    """A server that runs."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    output: Path

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged so far; every line has to be an object."""
        whole = self.log.read_text(encoding="utf-8").rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(how)
        return self.process.wait(timeout=END_S)


@contextmanager
def start(
    bundles: Mapping[str, Path], *options: object, environment: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[Running]:
    """Start a server, and stop it at the end of the block if it still runs."""
    named = [f"{name}={folder}" for name, folder in bundles.items()]
    with tempfile.TemporaryDirectory() as place:
        log, output = Path(place) / "log", Path(place) / "output"
        with log.open("wb") as stderr, output.open("wb") as stdout:
            command = [sys.executable, "-c", "from q8bert.runtime.cli import main; main()", "serve", *named]
            process = subprocess.Popen(
                [*command, "--port", str(port), "--leave", "0.2", *map(str, options)],
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            )
            try:
                yield Running(_address(process, log), process, log, output)
            finally:
                if process.poll() is None:
                    process.terminate()
                    try:
                        process.wait(timeout=END_S)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and '"listening"' in line:
                address: str = json.loads(line)["addresses"][0]
                return address.removeprefix("http://")
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {log.read_text(encoding='utf-8')}")
