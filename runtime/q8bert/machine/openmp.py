"""How long torch's threads wait actively between two operators.

They are GNU OpenMP's, which take 300,000 turns of a loop before they sleep. On a machine with other work that keeps
cores from those who have some to do, torch's own other threads and ONNX Runtime's among them
(``tools/bench_openmp.py``).

References:
    GNU libgomp manual, "GOMP_SPINCOUNT" and "OMP_WAIT_POLICY".
"""

import os
import sys

__all__ = ["SPIN_COUNT", "sleep_soon"]

SPIN_COUNT = 10_000  # turns of that loop
_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def sleep_soon() -> None:
    """Have OpenMP's threads sleep after a short wait, unless the environment says how long, or torch is loaded already.

    For the start of a program: OpenMP reads it once, when it is loaded with torch. Processes that are started inherit
    it. Other implementations of OpenMP do not know it.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _CHOICES):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
