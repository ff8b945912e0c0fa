"""How execution providers are named: a name, or a name and its options, as ONNX Runtime itself takes them."""

from collections.abc import Mapping, Sequence

from q8bert.runtime.engines.providers.table import CPU_PROVIDER, facts_of
from q8bert.spec.errors import ConfigError

__all__ = ["NamedProviders", "Provider", "bound_device", "named_providers", "parse_provider"]

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


def bound_device(providers: NamedProviders) -> tuple[str, int] | None:
    """Return kind and number of the device that inputs and outputs are bound to; None for main memory."""
    name, options = providers[0]
    memory = facts_of(name).memory
    return None if memory is None else (memory, int(options.get("device_id", 0)))
