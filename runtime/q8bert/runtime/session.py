"""A loaded ONNX model on the execution providers that were asked for, and no others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from q8bert.spec.cuda import cuda_driver, preload_cuda_libraries
from q8bert.spec.environment import installed_ort_build
from q8bert.spec.errors import BundleError, ConfigError, ProviderError

__all__ = ["CPU_PROVIDER", "Session"]

CPU_PROVIDER = "CPUExecutionProvider"
_CUDA_PROVIDERS = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"})


class Session:
    """Runs a model; ``providers`` says where, in order of preference.

    ONNX Runtime itself leaves a provider out with no more than a warning when its libraries or device are missing; here
    that is an error. The CPU provider may stand last, for the nodes that the others cannot run.

    Args:
        model: Path of the ONNX file, or the model's bytes.
        providers: Full names, for example ``("CUDAExecutionProvider", "CPUExecutionProvider")``.
        threads: CPU threads; 0 leaves the choice to ONNX Runtime.

    Raises:
        ConfigError: If providers are no list of names, or threads negative.
        ProviderError: If a provider is not in this build of ONNX Runtime, or could not be started.
        BundleError: If ONNX Runtime cannot load the model.
    """

    def __init__(self, model: Path | bytes, *, providers: Sequence[str] = (CPU_PROVIDER,), threads: int = 0) -> None:
        _check_options(providers, threads)
        _check_available(providers)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        if _CUDA_PROVIDERS.intersection(providers):
            _prepare_cuda(providers)
        source = model if isinstance(model, bytes) else str(model)
        try:
            session = ort.InferenceSession(source, options, providers=list(providers))
        except Exception as error:
            name = "the model" if isinstance(model, bytes) else model
            raise BundleError(f"ONNX Runtime {ort.__version__} could not load {name}: {error}") from error
        _check_active(providers, session.get_providers())
        self._session = session
        self.input_names = tuple(value.name for value in session.get_inputs())

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute logits.

        Args:
            inputs: Int64 ``(batch, seq)`` by name.

        Returns:
            Float32 ``(batch, n_outputs)``.

        Raises:
            BundleError: If ONNX Runtime cannot run the model on these inputs, for example on more tokens than it has
                positions for.
        """
        try:
            (logits,) = self._session.run(["logits"], dict(inputs))
        except Exception as error:
            shape = next(iter(inputs.values())).shape
            raise BundleError(f"ONNX Runtime {ort.__version__} could not run the model on {shape}: {error}") from error
        return np.asarray(logits, dtype=np.float32)


def _check_options(providers: Sequence[str], threads: int) -> None:
    faults = []
    if isinstance(providers, str):
        faults.append(f"providers must be a list of names, got the single text {providers!r}")
    elif len(set(providers)) < len(providers):
        faults.append(f"providers must each be named once, got {', '.join(providers)}")
    if threads < 0:
        faults.append(f"threads must be 0 or more, got {threads}")
    if faults:
        raise ConfigError(faults)


def _check_available(providers: Sequence[str]) -> None:
    build = installed_ort_build()
    available = ort.get_available_providers()
    unknown = [name for name in providers if name not in available]
    if unknown or not providers:
        raise ProviderError(
            f"execution provider {', '.join(unknown) or 'none'} was asked for, but {build.distribution} "
            f"{build.version} has {', '.join(available)}. For CUDA install q8bert[runtime-gpu] in its own environment"
        )


def _prepare_cuda(providers: Sequence[str]) -> None:
    driver = cuda_driver()
    if driver is None or not driver.devices:
        # ONNX Runtime 1.19.2 ends the process when its CUDA libraries are there and the driver is not
        lacking = "no NVIDIA driver" if driver is None else "no GPU"
        raise ProviderError(
            f"execution provider {providers[0]} was asked for, but there is {lacking} here. `q8bert doctor` says what "
            f"is missing; {CPU_PROVIDER} runs without"
        )
    preload_cuda_libraries(installed_ort_build().distribution)
    if hasattr(ort, "preload_dlls"):  # newer builds know what they need
        ort.preload_dlls()


def _check_active(asked: Sequence[str], active: Sequence[str]) -> None:
    missing = [name for name in asked if name not in active]
    if missing:
        raise ProviderError(
            f"execution provider {', '.join(missing)} was asked for and could not be started "
            f"(got {', '.join(active)}): its libraries or its device are missing. "
            "ONNX Runtime's own log, printed above, names them"
        )
