"""The contenders of `bench_inference.py` in their processes, taking turns in random order."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
_PAUSE_S = 0.01  # between turns, for threads that still spin


@dataclass(frozen=True)
class Contender:
    """Who takes part: one of the worker's kinds, what it loads (below the model's folder), in which environment."""

    name: str
    kind: str
    path: str
    env: str = "peers"
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What all have in common: interpreter of each environment, seed, what workers are told, and who takes part."""

    pythons: Mapping[str, str]
    seed: int
    told: Mapping[str, Any]
    only: Sequence[str] = ()


class Field:
    """The contenders in their processes; those that cannot run are in ``skipped`` with the reason.

    Args:
        contenders: Who takes part.
        paths: What each of them loads; who has no path does not run.
        settings: What they have in common.
    """

    def __init__(self, contenders: Iterable[Contender], paths: Mapping[str, Path], settings: Settings) -> None:
        self.skipped: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self._draw = random.Random(settings.seed)
        self._workers: dict[str, subprocess.Popen[str]] = {}
        for contender in contenders:
            name, path = contender.name, paths.get(contender.name)
            if settings.only and name not in settings.only:
                continue
            if path is None or not path.exists():
                self.skipped[name] = f"{path or f'--bundle {contender.path}=…'} is not there"
                continue
            say(f"loading {name}")
            told = {**settings.told, "kind": contender.kind, "path": str(path), "options": dict(contender.options)}
            try:
                self._workers[name] = _start(settings.pythons[contender.env], told)
            except OSError as error:
                self.skipped[name] = f"{settings.pythons[contender.env]}: {error.strerror}"
                continue
            if (answer := self._answer(name)) is not None:
                self.versions[contender.env] = answer["versions"]

    def rounds(self, requests: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Let all answer each request in turns; the first one only warms up.

        Args:
            requests: What the workers are asked.

        Returns:
            Name → seconds of each call (``wall``, ``cpu``), ``peak_memory_mb`` and the last ``result``.
        """
        found: dict[str, dict[str, Any]] = {}
        for number, request in enumerate(requests):
            for name in self._draw.sample(sorted(self._workers), len(self._workers)):
                time.sleep(_PAUSE_S)
                say(f"round {number} of {len(requests) - 1}: {name}")
                self._send(name, request)
                if (answer := self._answer(name)) is None or number == 0:
                    continue
                record = found.setdefault(name, {"wall": [], "cpu": []})
                record["wall"] += answer.pop("wall")
                record["cpu"] += answer.pop("cpu")
                record |= answer
        return {name: record for name, record in found.items() if name not in self.skipped}

    def ask(self, request: dict[str, Any], names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Let some answer one request that is not timed, one after the other; who fails is left out from then on.

        Args:
            request: What the workers are asked.
            names: Who is asked; those that do not run are passed over.

        Returns:
            Name → answer.
        """
        found: dict[str, dict[str, Any]] = {}
        for name in [name for name in names if name in self._workers]:
            say(f"asking {name}")
            self._send(name, request)
            if (answer := self._answer(name)) is not None:
                found[name] = answer
        return found

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers.values():
            worker.communicate()

    def _send(self, name: str, request: dict[str, Any]) -> None:
        pipe: Any = self._workers[name].stdin
        try:
            print(json.dumps(request), file=pipe, flush=True)
        except BrokenPipeError:
            return  # it has ended; what it answers says so

    def _answer(self, name: str) -> dict[str, Any] | None:
        worker = self._workers[name]
        pipe: Any = worker.stdout
        line = pipe.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"skipped": f"ended with exit code {worker.wait()}"}
        if "skipped" not in answer:
            return answer
        self.skipped[name] = answer["skipped"]
        self._workers.pop(name).wait()
        return None


def _start(python: str, told: dict[str, Any]) -> subprocess.Popen[str]:
    threads = str(told["threads"])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [python, str(TOOLS / "bench_inference_worker.py"), json.dumps(told)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip


def say(text: str) -> None:
    """Show on stderr how far it is."""
    print(text, end="\033[K\r", file=sys.stderr)
