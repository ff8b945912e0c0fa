"""Options are checked once, all faults together, and reach ONNX Runtime."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from q8bert.runtime import Classifier, RuntimeOptions
from q8bert.runtime.engines.session import Session
from q8bert.spec.errors import ConfigError


def inside(options: RuntimeOptions | None, small: Any, **arguments: Any) -> Any:
    """Return the options that ONNX Runtime's own session has."""
    session: Any = Session(small.bundle("SST-2", "int8") / "model.onnx", options=options, **arguments)
    return session._session.get_session_options()


def spins(options: Any) -> bool:
    return {"0": False, "1": True}[options.get_session_config_entry("session.intra_op.allow_spinning")]


def test_a_service_takes_one_thread_that_does_not_spin(small: Any) -> None:
    options = inside(RuntimeOptions.service(), small)
    assert (options.intra_op_num_threads, spins(options)) == (1, False)
    assert inside(RuntimeOptions.service(threads=2), small).intra_op_num_threads == 2


@pytest.mark.parametrize(("quota", "does_spin"), [(None, True), (1.5, False)])
def test_a_batch_job_takes_all_cores_and_spins_where_no_quota_counts_it(
    small: Any, monkeypatch: pytest.MonkeyPatch, quota: float | None, does_spin: bool
) -> None:
    monkeypatch.setattr("q8bert.runtime.engines.options.available_cores", lambda: 3)
    monkeypatch.setattr("q8bert.runtime.engines.options.cpu_quota", lambda: quota)
    options = inside(RuntimeOptions.batch(), small)
    assert (options.intra_op_num_threads, spins(options)) == (3, does_spin)
    if does_spin:  # not for good: threads that only spin may take no share of the work
        assert int(options.get_session_config_entry("session.intra_op.spin_duration_us")) < 1000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_no_thread_leaves_the_mask_of_the_process(small: Any) -> None:
    code = f"""
import os
os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
from q8bert.runtime import Classifier
before = set(os.listdir("/proc/self/task"))
classifier = Classifier.load({str(small.bundle("SST-2", "int8"))!r})
new = set(os.listdir("/proc/self/task")) - before
print(classifier.threads, [os.sched_getaffinity(int(thread)) - os.sched_getaffinity(0) for thread in new])
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    threads, outside = printed.split(maxsplit=1)
    assert threads == "1"
    assert set(ast.literal_eval(outside.replace("set()", "0"))) <= {0}


@pytest.mark.parametrize("on", [False, True])
def test_the_arena_is_as_asked(small: Any, on: bool) -> None:
    assert inside(RuntimeOptions(memory_arena=on), small).enable_cpu_mem_arena is on


@pytest.mark.parametrize(
    ("level", "meaning"),
    [
        ("none", ort.GraphOptimizationLevel.ORT_DISABLE_ALL),
        ("basic", ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        ("extended", ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
        ("all", ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
    ],
)
def test_the_optimization_level_is_as_asked(small: Any, level: str, meaning: Any) -> None:
    assert inside(RuntimeOptions(optimization=level), small).graph_optimization_level == meaning


def test_threads_alone_are_the_simple_way(small: Any) -> None:
    assert inside(None, small, threads=1).intra_op_num_threads == 1


def test_threads_said_twice_are_refused(small: Any) -> None:
    with pytest.raises(ConfigError, match="give threads or options, not both"):
        Classifier.load(small.bundle("SST-2", "int8"), threads=1, options=RuntimeOptions.batch())


def test_all_faults_are_reported_together() -> None:
    wrong: dict[str, Any] = {
        "threads": -1, "spinning": 1, "optimization": "most", "memory_arena": "yes", "cache_dir": "",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        RuntimeOptions(**wrong)
    assert caught.value.faults == (
        "threads must be 0 or more, got -1",
        "spinning must be true or false, got 1",
        "optimization must be one of none, basic, extended, all, got 'most'",
        "memory_arena must be true or false, got 'yes'",
        "cache_dir must be a path or none, got ''",
    )


@pytest.mark.parametrize("threads", [True, 1.5, "2", None])
def test_threads_are_a_whole_number(threads: Any) -> None:
    with pytest.raises(ConfigError, match="threads must be a whole number, 0 or more, got"):
        RuntimeOptions(threads=threads)


def test_equal_options_are_equal() -> None:
    assert RuntimeOptions.service(threads=3, cache_dir=Path("a")) == RuntimeOptions(
        threads=3, spinning=False, cache_dir=Path("a")
    )
