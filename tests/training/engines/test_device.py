"""A device that was asked for is had, or one sentence says why not."""

from typing import Any

import onnxruntime as ort
import pytest
import torch

from q8bert.machine.builds import OrtBuild
from q8bert.spec.errors import ConfigError, ProviderError
from q8bert.training.engines import device as device_module
from q8bert.training.engines.device import resolve_device

HAS_CUDA = torch.cuda.is_available() and "CUDAExecutionProvider" in ort.get_available_providers()


@pytest.mark.parametrize("engine", ["ort", "torch"])
def test_the_cpu_is_always_there(engine: str) -> None:
    assert resolve_device("cpu", engine=engine) == torch.device("cpu")


@pytest.mark.parametrize(
    ("build", "is_refused"),
    [
        (OrtBuild("onnxruntime", "1.32.0"), True),
        (OrtBuild("onnxruntime-gpu", "1.22.0"), True),
        (OrtBuild("onnxruntime-training-cpu", "1.19.2"), False),
        (OrtBuild("onnxruntime-training", "1.19.2"), False),
    ],
)
def test_only_the_training_build_is_asked_for_gradients(
    build: OrtBuild, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "installed_ort_build", lambda: build)
    # torch's own gradients run on any
    assert resolve_device("cpu", engine="ort", gradients="torch") == torch.device("cpu")
    if not is_refused:
        assert resolve_device("cpu", engine="ort", gradients="onnxruntime-training") == torch.device("cpu")
        return
    with pytest.raises(ProviderError, match=rf'Run: pip uninstall -y {build.distribution} && pip install "q8bert\['):
        resolve_device("cpu", engine="ort", gradients="onnxruntime-training")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CPU", "cuda:x", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device must be cpu, cuda or cuda:N"):
        resolve_device(name, engine="torch")


@pytest.mark.skipif(HAS_CUDA, reason="there is a CUDA device")
def test_cuda_without_a_device_is_one_clear_sentence() -> None:
    with pytest.raises(ProviderError, match=r"device cuda:1 was asked for, but torch .* sees 0 CUDA devices"):
        resolve_device("cuda:1", engine="torch")


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this build has CUDA")
def test_cuda_on_a_cpu_build_names_the_extra() -> None:
    with pytest.raises(ProviderError, match=r'has no CUDAExecutionProvider\. Run: .*"q8bert\[train-gpu\]"'):
        resolve_device("cuda", engine="ort")


def test_cuda_is_the_device_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda", engine="torch") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("cuda", engine="torch") == torch.device("cuda", 1)
    assert resolve_device("cuda:0", engine="torch") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ProviderError, match=r"cuda:2 was asked for, but torch .* sees 2 CUDA devices"):
        resolve_device("cuda", engine="torch")


def test_libraries_are_loaded_before_the_provider_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device_module.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(device_module, "installed_ort_build", lambda: OrtBuild("onnxruntime-training", "1.19.2"))
    monkeypatch.setattr(device_module, "preload_cuda_libraries", loaded.append)
    assert resolve_device("cuda:0", engine="ort") == torch.device("cuda", 0)
    assert loaded == ["onnxruntime-training"]


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device and the GPU build of ONNX Runtime Training")
def test_training_on_cuda_follows_training_on_the_cpu(small: Any, tmp_path: Any) -> None:
    from q8bert.tasks.glue import glue_task
    from q8bert.training import TrainConfig, train

    metrics = []
    for device in ("cpu", "cuda:0"):
        config = TrainConfig.from_options(
            task=glue_task("SST-2"), data_dir=str(small.data("SST-2")), model=str(small.model), device=device,
            batch_size=32, learning_rate=1e-3, max_length=32, epochs=4, output_dir=tmp_path / device[:4],
        )  # fmt: skip
        metrics.append(train(config).metrics["accuracy"])
    # the same data in the same order; sums in another order may let a few of 200 rows change sides
    assert metrics[0] == pytest.approx(metrics[1], abs=0.03)
