"""The doctor says what is there, what is missing, and what to run."""

import importlib.util
import json
from importlib.metadata import version
from typing import Any

import pytest
from typer.testing import CliRunner

from q8bert.machine.builds import OrtBuild, installed_ort_build
from q8bert.machine.cuda import CudaDriver
from q8bert.runtime import doctor
from q8bert.runtime.cli import build_app
from q8bert.spec.errors import MissingExtraError, OrtBuildError


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(build_app(), ["doctor", "--json", *arguments])
    return done.exit_code, json.loads(done.stdout)


def test_this_environment_is_healthy_and_described() -> None:
    code, report = run()
    build = installed_ort_build()
    assert (code, report["healthy"], report["problems"]) == (0, True, [])
    assert report["versions"][build.distribution] == build.version == version(build.distribution)
    assert report["builds_gradients"] is build.builds_gradients
    assert "CPUExecutionProvider" in report["execution_providers"]
    has_openvino = importlib.util.find_spec("openvino") is not None
    assert report["engines"] == ["onnxruntime", *(["openvino"] if has_openvino else [])]
    assert ("openvino" in report["versions"]) is has_openvino
    assert report["extras"]["evaluate"] is True
    formats = {"parquet": "pyarrow", "tfrecord": "google_crc32c", "mindrecord": "mindspore"}
    for extra, module in formats.items():
        assert report["extras"][extra] is (importlib.util.find_spec(module) is not None)


def gpu_build(monkeypatch: pytest.MonkeyPatch, *, driver: CudaDriver | None, libraries: dict[str, str | None]) -> None:
    monkeypatch.setattr(doctor, "installed_ort_build", lambda: OrtBuild("onnxruntime-training", "1.19.2"))
    monkeypatch.setattr(doctor, "_providers", lambda: ("CUDAExecutionProvider", "CPUExecutionProvider"))
    monkeypatch.setattr(doctor, "preload_cuda_libraries", lambda _: libraries)
    monkeypatch.setattr(doctor, "cuda_driver", lambda: driver)


def test_a_gpu_build_with_everything_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_build(monkeypatch, driver=CudaDriver("12.4", ("a GPU",)), libraries={"libcudnn.so.8": "/somewhere"})
    code, report = run()
    assert (code, report["cuda_driver"], report["cuda_devices"]) == (0, "12.4", ["a GPU"])


@pytest.mark.parametrize(
    ("driver", "libraries", "message"),
    [
        (None, {}, "no NVIDIA driver was found"),
        (CudaDriver("12.4", ()), {}, "sees no GPU"),
        (
            CudaDriver("12.4", ("a GPU",)),
            {"libcudnn.so.8": None},
            'missing: libcudnn.so.8. Run: pip install "q8bert[train',
        ),
    ],
)
def test_what_a_gpu_build_lacks_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, driver: CudaDriver | None, libraries: dict[str, str | None], message: str
) -> None:
    gpu_build(monkeypatch, driver=driver, libraries=libraries)
    code, report = run()
    assert code == 1
    (problem,) = report["problems"]
    assert message in problem


def test_an_image_may_be_built_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_build(monkeypatch, driver=None, libraries={"libcudnn.so.8": "/somewhere"})
    assert run("--no-device")[0] == 0


def test_two_builds_are_a_problem_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def two() -> OrtBuild:
        raise OrtBuildError("2 builds of ONNX Runtime are installed together")

    monkeypatch.setattr(doctor, "installed_ort_build", two)
    code, report = run()
    assert code == 1
    assert report["problems"] == ["2 builds of ONNX Runtime are installed together"]


def test_openvino_alone_is_an_engine_and_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("q8bert.machine.openvino_runtime", reason="needs openvino")

    def none() -> OrtBuild:
        raise MissingExtraError("no ONNX Runtime is installed")

    monkeypatch.setattr(doctor, "installed_ort_build", none)
    code, report = run()
    assert (code, report["engines"], report["execution_providers"]) == (0, ["openvino"], [])
    assert report["versions"]["openvino"] == version("openvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, report = run()
    assert (code, report["engines"], report["problems"]) == (1, [], ["no ONNX Runtime is installed"])


def test_people_read_a_table_and_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_build(monkeypatch, driver=None, libraries={"libcudnn.so.8": None})
    done = CliRunner().invoke(build_app(), ["doctor"])
    assert done.exit_code == 1
    assert "libcudnn.so.8" in done.stdout
    assert "problem: CUDA libraries are missing" in done.stdout
    if importlib.util.find_spec("torch") is None:
        assert 'pip install "q8bert[train]" would' in done.stdout
    assert "NOT HEALTHY" in done.stdout
