"""Whether the execution providers that were asked for are there.

ONNX Runtime leaves a provider out with no more than a warning when its libraries or its device are missing, and gives
nodes that a provider cannot run to the CPU; here the first is an error, and so is the second unless the CPU provider
was named too.
"""

from collections.abc import Sequence

from q8bert.machine.builds import installed_ort_build
from q8bert.machine.cuda import cuda_driver, preload_cuda_libraries
from q8bert.machine.onnx_runtime import ort
from q8bert.runtime.engines.providers.names import NamedProviders
from q8bert.runtime.engines.providers.table import CPU_PROVIDER, facts_of
from q8bert.spec.errors import ProviderError

__all__ = ["check_active", "prepare_providers"]


def prepare_providers(providers: NamedProviders) -> None:
    """Check that the providers are in this build, and load what CUDA needs.

    Args:
        providers: As :func:`named_providers` gives them.

    Raises:
        ProviderError: If a provider is not in this build, or is one of CUDA's and there is no driver or device.
    """
    build = installed_ort_build()
    available = ort.get_available_providers()
    unknown = [name for name, _ in providers if name not in available]
    if unknown or not providers:
        raise ProviderError(
            f"execution provider {', '.join(unknown) or 'none'} was asked for, but {build.distribution} "
            f"{build.version} has {', '.join(available)}. For CUDA install q8bert[runtime-gpu] in its own environment"
        )
    if on_cuda := [name for name, _ in providers if facts_of(name).needs_cuda]:
        _prepare_cuda(on_cuda[0])


def check_active(providers: NamedProviders, active: Sequence[str]) -> None:
    """Check that a session runs on every provider that was asked for.

    Args:
        providers: What was asked for.
        active: Names of those that the session has.

    Raises:
        ProviderError: If one is missing.
    """
    missing = [name for name, _ in providers if name not in active]
    if missing:
        raise ProviderError(
            f"execution provider {', '.join(missing)} was asked for and could not be started "
            f"(got {', '.join(active)}): its libraries or its device are missing. "
            "ONNX Runtime's own log, printed above, names them"
        )


def _prepare_cuda(name: str) -> None:
    driver = cuda_driver()
    if driver is None or not driver.devices:
        # ONNX Runtime 1.19.2 ends the process when its CUDA libraries are there and the driver is not
        lacking = "no NVIDIA driver" if driver is None else "no GPU"
        raise ProviderError(
            f"execution provider {name} was asked for, but there is {lacking} here. `q8bert doctor` says what "
            f"is missing; {CPU_PROVIDER} runs without"
        )
    preload_cuda_libraries(installed_ort_build().distribution)
    if hasattr(ort, "preload_dlls"):  # newer builds know what they need
        ort.preload_dlls()
