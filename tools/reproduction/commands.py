"""The commands of a campaign: each in a process of its own and timed; all that are under way can be stopped."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["CommandError", "Commands"]

_Q8BERT = "from q8bert.runtime.cli import main; main()"  # the command, of this very environment
_INTERRUPTED = {130, -signal.SIGINT, -signal.SIGTERM}


class CommandError(Exception):
    """Raised if a command of the campaign fails or is stopped; says which, and where its words are."""


class Commands:
    """Runs `q8bert` commands, several at a time if they are run in threads."""

    def __init__(self) -> None:
        self.is_stopped = False
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def run(
        self, command: Sequence[str], *, log: Path, answer: Path, script: Path | None = None
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Run a command to its end.

        Args:
            command: Name and arguments, ``--json`` among them; arguments alone of a script.
            script: A Python script that is run in place of `q8bert`.
            log: File for its stderr.
            answer: File for its stdout.

        Returns:
            Its JSON object, and its wall and CPU seconds.

        Raises:
            CommandError: If it fails, or all are stopped.
        """
        program = ["-c", _Q8BERT] if script is None else [str(script)]
        words = f"{'q8bert' if script is None else script.name} {shlex.join(command)}"
        started = time.monotonic()
        with log.open("wb") as stderr, answer.open("wb") as stdout:
            with self._lock:  # one that is started is seen by stop()
                if self.is_stopped:
                    raise CommandError(f"{words} was not begun")
                process = subprocess.Popen([sys.executable, *program, *command], stdout=stdout, stderr=stderr)
                self._running.add(process.pid)
            _, status, usage = os.wait4(process.pid, 0)  # for its own CPU seconds; POSIX alone has this
            with self._lock:
                self._running.discard(process.pid)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        if code in _INTERRUPTED:  # Ctrl-C reaches all processes of a terminal; nothing more is begun
            self.is_stopped = True
            raise CommandError(f"{words} was interrupted")
        content = answer.read_bytes()
        # 1: a gate or a threshold was missed, which the table will show; without an answer there is nothing to show
        if code not in {0, 1} or not content:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise CommandError(f"{words} exited with {code}: {said[-1] if said else 'no word'}; see {log}")
        seconds = {"wall": time.monotonic() - started, "cpu": usage.ru_utime + usage.ru_stime}
        return json.loads(content), {name: round(value, 1) for name, value in seconds.items()}

    def stop(self) -> None:
        """End all commands that are under way, and begin no others; runs of `q8bert train` can be gone on with."""
        with self._lock:
            self.is_stopped = True
            for number in self._running:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(number, signal.SIGTERM)
