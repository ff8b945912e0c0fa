"""Part `speed` of `gpu_check.py`: what a training step takes, in time and in memory, by engine and precision.

Best and median of some steps after warm-up, the device waited for at both ends of each. Memory is counted twice, since
ONNX Runtime allocates outside torch: ``torch_peak_mb`` is the most that torch's own allocator held at a time,
``device_mb`` is what the device had less of at the end than before the row, caches of both included.
"""

import gc
import itertools
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from gpu_checks.contenders import OURS, make_batch, make_contender
from gpu_checks.findings import Findings
from gpu_checks.setting import PRECISIONS, Setting, is_not_offered

__all__ = ["check_speed", "timed_sizes"]

# what torch.compile may take; a row is left out rather than begun where less is left
_COMPILE_SECONDS, _OTHER_SECONDS = 40.0, 8.0
_MB = 2**20


def check_speed(setting: Setting, findings: Findings) -> None:
    """Time every contender at every size in every precision, as long as there is time."""
    if setting.without_ort:
        findings.note(f"torch alone is timed; ONNX Runtime cannot run here: {setting.without_ort}")
    findings.note(
        "torch_float and torch_compiled have Hugging Face's default attention; the engines need the eager one"
    )
    torch.backends.cuda.matmul.allow_tf32 = False
    for said in setting.wait_for_programs():
        findings.note(f"a training program could not be built ahead: {said.strip().splitlines()[-1]}")
    findings.note("float32 means float32: TF32 is off for all")
    for size, kind, precision in _order(setting):
        if kind in setting.contenders:
            _row(setting, findings, size, kind, precision)


def timed_sizes(setting: Setting) -> tuple[str, ...]:
    """Return the sizes that are timed."""
    return ("tiny",) if setting.quick else ("minilm-l6", "bert-base")


def _order(setting: Setting) -> Iterator[tuple[str, str, str]]:
    """Yield size, contender and precision, what matters most first: time may end before the rows do."""
    sizes = timed_sizes(setting)
    kinds = (*(kind for kind in OURS if kind != "ort_qat" or not setting.without_ort), "torch_float")
    # other precisions are one more program each, and compiling takes a minute on a CPU: too long for a quick trial
    precisions = PRECISIONS[:1] if setting.quick else PRECISIONS
    compiled = () if setting.quick else ("bfloat16", "float32", "float16")
    for size, precision, kind in itertools.product(sizes, precisions, kinds):
        yield size, kind, precision
    for precision, size in itertools.product(compiled, sizes):
        yield size, "torch_compiled", precision


def _row(setting: Setting, findings: Findings, size: str, kind: str, precision: str) -> None:
    row = {"size": size, "contender": kind, "precision": precision}

    def is_unsupported(error: Exception) -> bool:
        # a rival that does not run here is no fault of ours
        return kind not in OURS or isinstance(error, torch.cuda.OutOfMemoryError) or is_not_offered(error, precision)

    findings.attempt(
        "steps",
        row,
        lambda: _measured(setting, size, kind, precision),
        is_unsupported=is_unsupported,
        seconds=_COMPILE_SECONDS if kind == "torch_compiled" else _OTHER_SECONDS,
    )
    if kind == "torch_compiled":
        torch.compiler.reset()


def _measured(setting: Setting, size: str, kind: str, precision: str) -> dict[str, Any]:
    n_rows, length = (4, 16) if setting.quick else (32, 128)
    n_warm_up, n_steps = (1, 3) if setting.quick else (5, 20)
    batch = make_batch(size, setting, n_rows=n_rows, length=length)
    before = _memory(setting)
    contender = make_contender(kind, size, precision, setting)
    seconds = []
    loss = math.nan
    for _ in range(n_warm_up + n_steps):
        setting.synchronize()
        started = time.perf_counter()
        loss = contender.step(batch)
        setting.synchronize()
        seconds.append(time.perf_counter() - started)
    if not math.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss} after {len(seconds)} steps")
    timed = seconds[n_warm_up:]
    return {
        "batch": f"{n_rows} x {length}",
        "best_ms": 1e3 * min(timed),
        "median_ms": 1e3 * statistics.median(timed),
        "first_step_s": seconds[0],
        "examples_a_second": n_rows / statistics.median(timed),
        **_memory_since(setting, before),
    }


def _memory(setting: Setting) -> tuple[int, int]:
    """Return what is in use on the device and in torch, in bytes, and let torch count its peak anew."""
    if not setting.is_cuda:
        return 0, 0
    one = torch.ones(8, 8, device=setting.device)
    (one @ one).sum().item()  # the context and the workspace of products are nobody's in particular
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setting.device)
    free, total = torch.cuda.mem_get_info(setting.device)
    return total - free, torch.cuda.memory_allocated(setting.device)


def _memory_since(setting: Setting, before: tuple[int, int]) -> dict[str, float | None]:
    if not setting.is_cuda:
        return {"torch_peak_mb": None, "device_mb": None}
    free, total = torch.cuda.mem_get_info(setting.device)
    return {
        "torch_peak_mb": (torch.cuda.max_memory_allocated(setting.device) - before[1]) / _MB,
        "device_mb": (total - free - before[0]) / _MB,
    }
