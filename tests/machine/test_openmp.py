"""Torch's threads are told to sleep soon, where nobody said otherwise, by every command and by each process of torchrun."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
LOAD = "from q8bert.machine.openmp import sleep_soon; sleep_soon(); import torch"


def spin_count(code: str, **environment: str) -> str:
    """Return what GNU OpenMP says of itself when it is loaded."""
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**kept, "OMP_DISPLAY_ENV": "verbose", **environment},
    )  # fmt: skip
    found = [line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not found:
        pytest.skip("this torch has another OpenMP")
    return found[0]


def test_openmp_is_told_and_what_the_environment_says_stays() -> None:
    assert spin_count(LOAD) == "10000"
    assert spin_count(LOAD, GOMP_SPINCOUNT="7") == "7"
    assert spin_count(LOAD, OMP_WAIT_POLICY="passive") == spin_count("import torch", OMP_WAIT_POLICY="passive")


@pytest.mark.parametrize("module", ["q8bert.runtime.cli", "q8bert.training.__main__"])
def test_every_program_tells_it_before_torch_is_loaded(module: str) -> None:
    code = f"""
import os, sys
from {module} import main
assert "torch" not in sys.modules
sys.argv = ["q8bert", "--help"]
try:
    main()
except SystemExit:
    print(os.environ.get("GOMP_SPINCOUNT"))
"""
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept)
    assert done.stdout.splitlines()[-1] == "10000"


def test_a_program_that_loaded_torch_is_left_alone() -> None:
    code = "import torch, os; from q8bert.machine.openmp import sleep_soon; sleep_soon(); print(dict(os.environ))"
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept)
    assert "GOMP_SPINCOUNT" not in done.stdout
