"""Builds the training programs that `gpu_check.py` times, in other processes while its first parts run.

Building is work of one CPU core and takes some ten seconds a program. Each is put into a folder where
``cached_programs`` looks for it; who asks for it then finds it there, and builds it himself where that failed.

    cd tools; python -m gpu_checks.ahead minilm-l6 float16 FOLDER     # what each of the processes runs
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_checks.models import INPUT_NAMES, make_classifier

from q8bert.training.objectives.objective import Classification
from q8bert.training.quantization.sites import find_sites

if TYPE_CHECKING:
    from q8bert.training.programs.cache import Programs

__all__ = ["ProgramsAhead", "program_of"]


class ProgramsAhead:
    """Processes that build programs, as many at a time as the CPUs allow.

    Args:
        wanted: Pairs of size and precision, the most urgent first.
        folder: Where the programs go.
    """

    def __init__(self, wanted: Sequence[tuple[str, str]], folder: Path) -> None:
        # the checks themselves want a core or two
        self._pool = ThreadPoolExecutor(max_workers=max(1, min(len(wanted), (os.cpu_count() or 1) - 2)))
        self._running: set[subprocess.Popen[str]] = set()
        self._builds: list[Future[str]] = [self._pool.submit(self._build, *names, folder) for names in wanted]

    def wait(self) -> list[str]:
        """Wait until every program is there; returns what those processes said that failed."""
        return [said for build in self._builds if (said := build.result())]

    def close(self) -> None:
        """Stop what is still being built."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            process.kill()
        self._pool.shutdown(wait=True)

    def _build(self, size: str, precision: str, folder: Path) -> str:
        command = [sys.executable, "-m", "gpu_checks.ahead", size, precision, str(folder)]
        # no GPU: a context of theirs would count as memory in use
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._running.add(process)
        _, said = process.communicate()
        self._running.discard(process)
        return said if process.returncode else ""


def program_of(size: str, precision: str, folder: Path) -> "Programs":
    """Return the programs of a model of some size, quantized everywhere; from the folder if they are there."""
    from q8bert.training.programs.cache import cached_programs  # needs ONNX Runtime

    model = make_classifier(size)
    return cached_programs(
        model, find_sites(model), Classification(), input_names=INPUT_NAMES, gradients="torch", precision=precision,
        cache_dir=folder, report=lambda _: None,
    )  # fmt: skip


def main() -> None:
    """Build one program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size")
    parser.add_argument("precision")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    program_of(args.size, args.precision, args.folder)


if __name__ == "__main__":
    main()
