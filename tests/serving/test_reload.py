"""Bundles that are replaced while a server runs: no request is lost, and a bad one takes no place."""

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from q8bert.runtime import Classifier
from q8bert.spec.folders import new_folder

httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow

INFER = "/v2/models/sentiment/infer"
GOOD = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}]}
TOLERANCE = 1e-5


def until(true: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def replace(target: Path, source: Path) -> None:
    """Put another bundle in place, as `q8bert export` does."""
    with new_folder(target, last="manifest.json") as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def digest(http: Any, model: str = "sentiment") -> str:
    return str(http.get(f"/v2/models/{model}").json()["parameters"]["digest"])


@pytest.fixture
def folder(small: Any, tmp_path: Path) -> Path:
    shutil.copytree(small.bundle("SST-2", "int8"), tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def served(ourselves: ModuleType, folder: Path) -> Iterator[tuple[Any, Any]]:
    with (
        ourselves.start({"sentiment": folder}, "--reload", 0.2) as running,
        httpx.Client(base_url=f"http://{running.url}", timeout=60) as http,
    ):
        yield running, http


def test_a_bundle_is_replaced_under_load(served: Any, folder: Path, small: Any, loads: ModuleType) -> None:
    running, http = served
    others = [small.bundle("SST-2", precision) for precision in ("float32", "int8", "float32")]
    expected = [Classifier.load(small.bundle("SST-2", precision), threads=1) for precision in ("int8", "float32")]
    with loads.load(running.url, n_clients=12) as load:
        for other in others:
            loads.wait_for(load, 100)
            before = digest(http)
            replace(folder, other)
            until(lambda before=before: digest(http) != before)
        loads.wait_for(load, 100)
    assert {one.status for one in load.ended} == {200}
    given = {one.text: loads.probabilities(one.answer) for one in load.ended}
    distances = []
    for classifier in expected:
        rows = [[*(one.probabilities or {}).values()] for one in classifier([*given])]
        distances.append(
            [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in zip(rows, given.values(), strict=True)]
        )
    nearest = [min(pair) for pair in zip(*distances, strict=True)]
    assert max(nearest) < TOLERANCE, "every answer is that of one of the two bundles"
    assert min(distances[0]) < TOLERANCE
    assert min(distances[1]) < TOLERANCE
    metrics = http.get("/metrics").text
    assert 'q8bert_reloads_total{model="sentiment",outcome="taken",version="1"} 3.0' in metrics
    # the counters go on where those of the bundles before ended
    answered = next(
        line
        for line in metrics.splitlines()
        if line.startswith("q8bert_rows_ended_total") and 'outcome="answered"' in line
    )
    assert float(answered.split()[-1]) == len(load.ended)
    assert running.end() == 0


def altered(folder: Path, name: str, content: bytes, *, is_recorded: bool) -> None:
    (folder / name).write_bytes(content)
    if is_recorded:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("is_recorded", [False, True], ids=["other than its manifest says", "no model"])
def test_a_bad_bundle_takes_no_place_and_is_told_of(
    served: Any, folder: Path, small: Any, *, is_recorded: bool
) -> None:
    running, http = served
    before = digest(http)
    altered(folder, "model.onnx", b"no model at all", is_recorded=is_recorded)
    until(lambda: "problems" in http.get("/v2/health/ready").json())
    ready = http.get("/v2/health/ready")
    assert ready.status_code == 200, "the old bundle serves"
    assert "the bundle before it goes on serving" in ready.json()["problems"][0]["reason"]
    assert "model.onnx" in ready.json()["problems"][0]["reason"]
    assert http.post("/v2/repository/index").json()[0]["reason"]
    assert digest(http) == before
    assert http.post(INFER, json=GOOD).status_code == 200
    assert 'q8bert_bundle_problem{model="sentiment",version="1"} 1.0' in http.get("/metrics").text
    errors = [line for line in running.lines() if line["level"] == "error"]
    assert [line["event"] for line in errors] == ["reload"], "said once, not at every look"
    replace(folder, small.bundle("SST-2", "float32"))
    until(lambda: "problems" not in http.get("/v2/health/ready").json())
    assert digest(http) != before


def test_a_folder_that_is_gone_takes_nothing_away(served: Any, folder: Path) -> None:
    _, http = served
    folder.rename(folder.with_name("elsewhere"))
    until(lambda: "problems" in http.get("/v2/health/ready").json())
    assert http.post(INFER, json=GOOD).status_code == 200
    folder.with_name("elsewhere").rename(folder)
    until(lambda: "problems" not in http.get("/v2/health/ready").json())


def test_an_edited_model_card_is_shown_and_nothing_is_loaded(served: Any, folder: Path) -> None:
    running, http = served
    (folder / "README.md").write_text("# Another card", encoding="utf-8")
    until(lambda: http.get("/v2/models/sentiment/card").text == "# Another card")
    assert [line["event"] for line in running.lines() if line["event"] in {"load", "reload"}] == ["load"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_without_looking_a_signal_makes_it_look(ourselves: ModuleType, folder: Path, small: Any) -> None:
    with (
        ourselves.start({"sentiment": folder}, "--reload", 0) as running,
        httpx.Client(base_url=f"http://{running.url}", timeout=60) as http,
    ):
        before = digest(http)
        replace(folder, small.bundle("SST-2", "float32"))
        time.sleep(0.5)
        assert digest(http) == before
        running.process.send_signal(signal.SIGHUP)
        until(lambda: digest(http) != before)


def test_versions_come_and_go(ourselves: ModuleType, small: Any, tmp_path: Path) -> None:
    repository = tmp_path / "versions"
    shutil.copytree(small.bundle("SST-2", "int8"), repository / "1")
    (repository / "notes").mkdir()
    with (
        ourselves.start({"sentiment": repository}, "--reload", 0.2) as running,
        httpx.Client(base_url=f"http://{running.url}", timeout=60) as http,
    ):

        def versions() -> list[str]:
            return list(http.get("/v2/models/sentiment").json()["versions"])

        assert versions() == ["1"]
        replace(repository / "2", small.bundle("SST-2", "float32"))
        until(lambda: versions() == ["1", "2"])
        assert http.post(INFER, json=GOOD).json()["model_version"] == "2"
        first = http.post("/v2/models/sentiment/versions/1/infer", json=GOOD)
        assert first.json()["model_version"] == "1"
        shutil.rmtree(repository / "2")
        until(lambda: versions() == ["1"])
        assert http.post(INFER, json=GOOD).json()["model_version"] == "1"
        assert http.post("/v2/models/sentiment/versions/2/infer", json=GOOD).status_code == 404
