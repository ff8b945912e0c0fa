"""How long ONNX Runtime's threads wait actively before they sleep.

Left to itself, ONNX Runtime lets them spin for many milliseconds. That keeps a core from others, torch's own threads
among them, and now and then a process falls into a state in which its threads take no share of the work while they
spin, and stays in it at the speed of one thread. After a short spin they sleep, and are woken: as fast, or nearly so,
for the smallest batches, and without that state (``tools/bench_spinning.py``).
"""

from q8bert.machine.onnx_runtime import ort

__all__ = ["spin_briefly"]

_SPIN_US = 20


def spin_briefly(options: ort.SessionOptions) -> None:
    """Let the threads of a session sleep after 20 µs without work.

    Args:
        options: Of the session; releases of ONNX Runtime that do not know this one ignore it, and spin on.
    """
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
