"""Execution providers: what may be asked for, and whether it is there.

A provider is a name, or a name and its options, as ONNX Runtime itself takes them. ONNX Runtime leaves a provider out
with no more than a warning when its libraries or its device are missing, and gives nodes that a provider cannot run to
the CPU; here the first is an error, and so is the second unless the CPU provider was named too.
"""

from collections.abc import Mapping, Sequence

from q8bert.machine.builds import installed_ort_build
from q8bert.machine.cuda import cuda_driver, preload_cuda_libraries
from q8bert.machine.onnx_runtime import ort
from q8bert.runtime.engines.provider_table import CPU_PROVIDER, facts_of
from q8bert.spec.errors import ConfigError, ProviderError

__all__ = [
    "NamedProviders",
    "Provider",
    "bound_device",
    "check_active",
    "named_providers",
    "parse_provider",
    "prepare_providers",
]

Provider = str | tuple[str, Mapping[str, object]]
NamedProviders = tuple[tuple[str, Mapping[str, str]], ...]

# A captured graph reads the addresses of its first inputs again and again; every call here brings its own.
_CUDA_GRAPH_OPTIONS = ("enable_cuda_graph", "trt_cuda_graph_enable")
_OFF = frozenset({"0", "False", "false"})


def named_providers(providers: Sequence[Provider]) -> NamedProviders:
    """Bring providers into one form.

    Args:
        providers: Full names, or pairs of a name and its options, in order of preference.

    Returns:
        Pairs of a name and its options as texts.

    Raises:
        ConfigError: If it is no such list, a provider is named twice, or an option cannot work here.
    """
    if isinstance(providers, str):
        raise ConfigError([f"providers must be a list of names, got the single text {providers!r}"])
    faults = []
    named: list[tuple[str, Mapping[str, str]]] = []
    for provider in providers:
        match provider:
            case str(name):
                named.append((name, {}))
            case (str(name), Mapping() as options):
                named.append((name, {str(key): str(value) for key, value in options.items()}))
            case _:
                faults.append(f"a provider must be a name or a pair of a name and its options, got {provider!r}")
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        faults.append(f"providers must each be named once, got {', '.join(names)}")
    for name, options in named:
        if name == CPU_PROVIDER and options:
            faults.append(f"{CPU_PROVIDER} takes no options, got {', '.join(options)}; see RuntimeOptions")
        faults += [
            f"{name}: {key} cannot be used, as the addresses and shapes of inputs change with every call"
            for key in _CUDA_GRAPH_OPTIONS
            if options.get(key, "0") not in _OFF
        ]
    if faults:
        raise ConfigError(faults)
    return tuple(named)


def parse_provider(text: str) -> Provider:
    """Read ``NAME`` or ``NAME:option=value,option=value``.

    Args:
        text: For example ``CUDAExecutionProvider:device_id=1``.

    Returns:
        The provider.

    Raises:
        ConfigError: If an option has no name or no value.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        return name
    options = {}
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        if not key or not equals or not value:
            raise ConfigError([f"a provider is NAME or NAME:option=value,option=value, got {text!r}"])
        options[key] = value
    return name, options


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


def bound_device(providers: NamedProviders) -> tuple[str, int] | None:
    """Return kind and number of the device that inputs and outputs are bound to; None for main memory."""
    name, options = providers[0]
    memory = facts_of(name).memory
    return None if memory is None else (memory, int(options.get("device_id", 0)))


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
