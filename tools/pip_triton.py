"""Run the NVIDIA Triton that the package nvidia-pytriton carries: no container, and no backend but Python's.

The package is an interface of its own; here only the server is used that lies in it, with its Python backend. It wants
an environment of Python 3.11 with numpy below 2, in which q8bert is installed for the steps of a repository; that
Python's shared library, which is Debian's package libpython3.11; and, beside the backend, the stub that was built for
it. `make .venv/triton/.ready` makes all of that.

    q8bert triton bundles/int8 --output-dir repository --backend python
    python tools/pip_triton.py .venv/triton repository --model-control-mode=poll
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

_PYTHON = "3.11"
_KINDS = ("http", "grpc", "metrics")
_START_S, _END_S = 120, 60


@dataclass(frozen=True)
class Place:
    """Where Triton is.

    Attributes:
        home: The environment.
    """

    home: Path

    @property
    def packages(self) -> Path:
        """The environment's packages."""
        return self.home / "lib" / f"python{_PYTHON}" / "site-packages"

    @property
    def server(self) -> Path:
        """The folder of the server and its backends."""
        return self.packages / "pytriton" / "tritonserver"

    @property
    def program(self) -> Path:
        """The server."""
        return self.server / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The program that Python models run in."""
        return self.server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"

    def lack(self) -> str:
        """Say in words what it lacks to run; empty where nothing is."""
        if not self.program.is_file() or not self.stub.is_file():
            return f"{self.home} has no nvidia-pytriton for Python {_PYTHON}"
        done = subprocess.run(["ldd", self.stub], capture_output=True, text=True, env=self.environment(), check=False)
        missing = [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]
        return f"{', '.join(missing)} not found; Debian's libpython{_PYTHON} brings it" if missing else ""

    def environment(self) -> dict[str, str]:
        """Return the variables that the server is run with."""
        libraries = [
            str(self.packages / "nvidia_pytriton.libs"),
            *self._own_library(),
            os.environ.get("LD_LIBRARY_PATH", ""),
        ]
        return {
            **os.environ,
            # the steps' Python is the first one of the path
            "PATH": os.pathsep.join([str(self.home / "bin"), str(self.program.parent), os.environ["PATH"]]),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        }

    def _own_library(self) -> list[str]:
        # a Python that was not installed by the system may bring its library with it
        lines = (self.home / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
        home = next(Path(line.partition("=")[2].strip()) for line in lines if line.split("=")[0].strip() == "home")
        folder = home.parent / "lib"
        return [str(folder)] if (folder / f"libpython{_PYTHON}.so.1.0").is_file() else []


@dataclass
class Running:
    """A server that runs.

    Attributes:
        url: Host and port of HTTP.
        grpc_url: Those of gRPC.
        process: The server.
        output: File of what it says.
    """

    url: str
    grpc_url: str
    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        """Return what it said so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")


@contextmanager
def run(place: Place, repository: Path, *options: object, until: str = "ready") -> Iterator[Running]:
    """Run Triton on a repository, on this machine's own address alone, and stop it at the end of the block.

    Args:
        place: Where it is.
        repository: The repository.
        *options: More options of the server.
        until: What it is waited for: ``ready``, or ``live`` whatever became of its models.

    Yields:
        The server.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        # in a folder where nothing lies that Python could take for a module
        work = Path(folder) / "work"
        work.mkdir()
        ports = _free_ports(len(_KINDS))
        with output.open("wb") as said:
            process = subprocess.Popen(
                [*_command(place, repository.resolve(), Path(folder), ports), *map(str, options)],
                stdout=said, stderr=subprocess.STDOUT, env={**place.environment(), "OMP_NUM_THREADS": "1"}, cwd=work,
                start_new_session=True,
            )  # fmt: skip
            running = Running(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", process, output)
            try:
                _wait(running, until)
                yield running
            finally:
                _stop(process)


def _command(place: Place, repository: Path, folder: Path, ports: Sequence[int]) -> list[str]:
    # the backend looks for the stub beside itself
    backends = folder / "backends"
    shutil.copytree(place.server / "backends", backends)
    shutil.copy(place.stub, backends / "python")
    return [
        str(place.program),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        # the configuration is complete: nothing is to be guessed, which takes a second start of each step
        "--disable-auto-complete-config",
        *(f"--{kind}-address=127.0.0.1" for kind in _KINDS),
        *(f"--{kind}-port={port}" for kind, port in zip(_KINDS, ports, strict=True)),
    ]


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _wait(running: Running, state: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and running.process.poll() is None:
        # not the line in its log: that comes before it listens
        with suppress(OSError), urlopen(f"http://{running.url}/v2/health/{state}", timeout=5):
            return
        time.sleep(0.05)
    raise SystemExit(f"Triton did not start:\n{running.text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    # a server that crashed leaves the processes of its steps behind
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Run it until it is interrupted."""
    if len(sys.argv) < 3:
        raise SystemExit(f"use: {sys.argv[0]} ENVIRONMENT REPOSITORY|--check [options of tritonserver]")
    place = Place(Path(sys.argv[1]).resolve())
    if lack := place.lack():
        raise SystemExit(f"Triton cannot run: {lack}")
    if sys.argv[2] == "--check":
        return
    with run(place, Path(sys.argv[2]), *sys.argv[3:]) as running:
        print(f"HTTP {running.url}, gRPC {running.grpc_url}; what it says: {running.output}")
        with suppress(KeyboardInterrupt):
            running.process.wait()


if __name__ == "__main__":
    main()
