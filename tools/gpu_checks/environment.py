"""Part `environment` of `gpu_check.py`: what the card, the driver and the libraries are, and whether CUDA starts."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import distributions
from typing import Any

import torch
from bench_machine import machine
from gpu_checks.findings import Findings, Value
from gpu_checks.setting import Setting

from q8bert.machine.cuda import cuda_driver

__all__ = ["check_environment"]

# what decides which kernels run
_PREFIXES = ("torch", "transformers", "onnx", "numpy", "nvidia-", "triton", "safetensors", "tokenizers", "q8bert")


def check_environment(setting: Setting, findings: Findings) -> None:
    """Write down what there is; start torch, and ONNX Runtime's CUDA provider, with one small product each."""
    for name, value in (*_machine(), *_torch(setting), *_ort()):
        findings.row("environment", {"what": name, "value": value})
    for name, version in sorted(_packages().items()):
        findings.row("packages", {"package": name, "version": version})
    if setting.without_ort:
        findings.note(f"ONNX Runtime cannot run here: {setting.without_ort}")
    product = torch.ones(64, 64, device=setting.device) @ torch.ones(64, 64, device=setting.device)
    findings.check("torch multiplies wrongly", holds=bool((product == 64).all()))
    if setting.is_cuda and not setting.without_ort:
        _start_cuda_provider(setting, findings)


def _machine() -> Iterator[tuple[str, Value]]:
    cpu = machine()
    yield "system", f"{platform.platform()}, Python {platform.python_version()}"
    yield "CPU", f"{cpu['cpu']}, {cpu['n_cpus']} CPUs, {' '.join(cpu['flags'])}"
    driver = cuda_driver()
    yield "newest CUDA of the driver", None if driver is None else driver.version
    yield "driver", _asked_of_nvidia_smi("driver_version")


def _torch(setting: Setting) -> Iterator[tuple[str, Value]]:
    cudnn: Any = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    yield "torch", torch.__version__
    yield "torch's CUDA, cuDNN", f"{torch.version.cuda}, {cudnn}"
    yield (
        "TF32 in torch's products, convolutions",
        (f"{torch.backends.cuda.matmul.allow_tf32}, {torch.backends.cudnn.allow_tf32}"),
    )
    if not setting.is_cuda:
        return
    found = torch.cuda.get_device_properties(setting.device)
    own, native = f"sm_{found.major}{found.minor}", torch.cuda.get_arch_list()
    free, total = torch.cuda.mem_get_info(setting.device)
    yield "card", f"{found.name}, {own}, {found.multi_processor_count} multiprocessors"
    yield "memory MB, free", f"{total / 2**20:.0f}, {free / 2**20:.0f}"
    yield "torch has native code for", " ".join(native)
    yield "this card is among them", own in native
    yield "bfloat16 in hardware", torch.cuda.is_bf16_supported(including_emulation=False)
    yield "clocks now, power limit", _asked_of_nvidia_smi("clocks.sm,clocks.max.sm,power.limit")


def _ort() -> Iterator[tuple[str, Value]]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        yield "onnxruntime", f"none: {error}"
        return
    yield "onnxruntime", ort.__version__
    yield "its build", ort.get_build_info()
    yield "its CUDA", str(getattr(ort, "cuda_version", None) or "none")
    yield "its providers", " ".join(ort.get_available_providers())


def _packages() -> dict[str, str]:
    found = {item.metadata["Name"]: item.version for item in distributions() if item.metadata["Name"]}
    return {name: version for name, version in found.items() if name.lower().startswith(_PREFIXES)}


def _asked_of_nvidia_smi(query: str) -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    done = subprocess.run(
        [program, f"--query-gpu={query}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _start_cuda_provider(setting: Setting, findings: Findings) -> None:
    import numpy as np
    import onnx
    import onnxruntime as ort

    helper: Any = onnx.helper
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64, 64]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = ("CUDAExecutionProvider", {"device_id": str(setting.device.index)})
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider])
    ones = np.ones((64, 64), dtype=np.float32)
    (product,) = session.run(None, {"a": ones, "b": ones})
    findings.row("environment", {"what": "its CUDA provider starts", "value": True})
    findings.check("CUDAExecutionProvider multiplies wrongly", holds=bool((product == 64).all()))
