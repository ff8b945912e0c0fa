"""Other processes: forks, spawned pools, pickles; and nothing that ONNX Runtime does on the side."""

import copy
import importlib
import inspect
import multiprocessing
import os
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import q8bert.data
import q8bert.machine
import q8bert.runtime
import q8bert.spec
import q8bert.tasks
import q8bert.text
from q8bert.runtime import Classifier, RuntimeOptions
from q8bert.spec.errors import BundleError, ConfigError, ParityError

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip


# ---- copies -------------------------------------------------------------------------------------


def test_a_pickle_is_the_way_to_the_bundle(small: Any) -> None:
    options = RuntimeOptions.service(threads=1)
    classifier = Classifier.load(small.bundle("SST-2", "int8"), options=options, on_long="refuse")
    content = pickle.dumps(classifier)
    assert len(content) < 2000
    again = pickle.loads(content)
    assert again(["a good film", "bad"]) == classifier(["a good film", "bad"])
    assert (again.on_long, again.threads, again.products) == ("refuse", 1, classifier.products)


def test_a_pickle_of_another_bundle_is_refused(small: Any, altered: Callable[..., Path]) -> None:
    bundle = altered(small.bundle("SST-2", "int8"))
    content = pickle.dumps(Classifier.load(bundle, threads=1))
    altered(small.bundle("SST-2", "float32"))
    with pytest.raises(BundleError, match="is not the bundle any more that was there when its classifier was pickled"):
        pickle.loads(content)


def test_a_copy_is_itself_for_nothing_in_it_changes(sentiment: Classifier) -> None:
    assert copy.copy(sentiment) is sentiment
    assert copy.deepcopy({"model": sentiment})["model"] is sentiment


def test_a_spawned_pool_takes_a_classifier(sentiment: Classifier) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(sentiment, ["a good film", "bad"]).result(timeout=60) == sentiment(["a good film", "bad"])


# an engine and what serves, which are not everywhere
OPTIONAL = {"openvino", "fastapi", "starlette", "uvicorn", "prometheus_client"}


def all_errors() -> list[type[Exception]]:
    found: set[type[Exception]] = set()
    for part in (q8bert.data, q8bert.machine, q8bert.runtime, q8bert.spec, q8bert.tasks, q8bert.text):
        for module in pkgutil.walk_packages(part.__path__, f"{part.__name__}."):
            try:
                members = vars(importlib.import_module(module.name)).values()
            except ModuleNotFoundError as missing:
                if str(missing.name).partition(".")[0] not in OPTIONAL:
                    raise
                continue
            found |= {one for one in members if inspect.isclass(one) and issubclass(one, Exception)}
    return sorted((one for one in found if one.__module__.startswith("q8bert.")), key=lambda one: one.__name__)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_can_be_pickled(kind: type[Exception]) -> None:
    made: Any = {
        "ConfigError": lambda: kind(["first", "second"]),
        "ParityError": lambda: kind("differs", max_abs_diff=0.5, atol=0.1),  # type: ignore[call-arg]
        "CellError": lambda: kind("label", {"a": 1}, "no label"),
        "RefusedError": lambda: kind(503, "busy", {"Retry-After": "1"}),
        "MisfitError": lambda: kind("a number", is_of_type=True),  # type: ignore[call-arg]
    }.get(kind.__name__, lambda: kind("what is wrong"))()
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), str(again), again.args, vars(again)) == (type(made), str(made), made.args, vars(made))


def test_the_faults_of_a_configuration_stay_apart() -> None:
    assert pickle.loads(pickle.dumps(ConfigError(["first", "second"]))).faults == ("first", "second")
    assert pickle.loads(pickle.dumps(ParityError("no", max_abs_diff=2.0, atol=1.0))).max_abs_diff == 2.0


# ---- forks --------------------------------------------------------------------------------------

FORK = """
import os, sys
from q8bert.runtime import Classifier
path, threads, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
classifier = Classifier.load(path, threads=threads)
classifier(["good"])
child = os.fork()
if child == 0:
    if what == "load":
        classifier = Classifier.load(path, threads=threads)
    if what != "end":
        try:
            print(classifier(["good"])[0].label)
        except Exception as error:
            print(type(error).__name__, "Load it after the fork" in str(error))
    sys.exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@forks
@pytest.mark.parametrize(
    ("threads", "what", "printed"),
    [
        (1, "end", ""), (2, "end", ""), (1, "run", "positive\n"), (2, "run", "ForkedError True\n"),
        (1, "load", "positive\n"), (2, "load", "positive\n"),
    ],
)  # fmt: skip
def test_a_forked_process_runs_or_is_told_to_load_and_always_ends(
    small: Any, threads: int, what: str, printed: str
) -> None:
    command = [sys.executable, "-c", FORK, str(small.bundle("SST-2", "int8")), str(threads), what]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (7, printed), done.stderr


@forks
def test_a_service_is_not_used_in_a_forked_process(small: Any) -> None:
    code = f"""
import asyncio, os, sys
from q8bert.runtime import AsyncClassifier, Classifier
async def main():
    async with AsyncClassifier(Classifier.load({str(small.bundle("SST-2", "int8"))!r}, threads=1)) as service:
        await service("good")
        child = os.fork()
        if child == 0:
            try:
                service("good").send(None)
            except Exception as error:
                print(error, service.healthy, flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
asyncio.run(main())
"""
    assert run(code).stdout == "the service is open in another process False\n"


# ---- what ONNX Runtime does on the side ---------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_no_telemetry_is_started_and_nothing_is_kept_in_the_users_folders(small: Any, tmp_path: Path) -> None:
    environment = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    code = f"""
import os
import numpy  # brings threads of its own
before = len(os.listdir("/proc/self/task"))
from q8bert.runtime import Classifier
classifier = Classifier.load({str(small.bundle("SST-2", "int8"))!r}, threads=1)
print(len(os.listdir("/proc/self/task")) - before, os.environ["ORT_DISABLE_TELEMETRY"])
"""
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=kept | environment
    )
    # encode_batch starts the tokenizer's own threads, one a core; none of them is ONNX Runtime's
    assert int(done.stdout.split()[0]) <= len(os.sched_getaffinity(0))
    assert done.stdout.split()[1] == "1"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_who_wants_telemetry_has_it() -> None:
    code = "from q8bert.machine.onnx_runtime import ort; import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run(code, ORT_DISABLE_TELEMETRY="0").stdout == "0\n"
