"""Options that a bundle's model wants of execution providers; what the caller says himself stands."""

from collections.abc import Sequence
from pathlib import Path

from q8bert.runtime.engines.providers.names import NamedProviders, Provider, named_providers
from q8bert.runtime.engines.providers.table import facts_of
from q8bert.spec.private_folders import make_private

__all__ = ["MAX_PROFILE_BATCH", "cache_options", "profile_options", "with_defaults"]

MAX_PROFILE_BATCH = 32  # rows a call, as everywhere where nobody says otherwise
_PROFILES = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
_CACHES = ("trt_engine_cache", "trt_timing_cache")


def with_defaults(
    providers: Sequence[Provider], *, is_quantized: bool, input_names: Sequence[str], max_length: int
) -> NamedProviders:
    """Add the options that a model wants.

    Args:
        providers: Full names, or pairs of a name and its options.
        is_quantized: Whether the graph is quantized, which some providers refuse unless told.
        input_names: Inputs of the model, int64 ``(batch, seq)`` each.
        max_length: Longest row in tokens.

    Returns:
        Pairs of a name and its options.

    Raises:
        ConfigError: If it is no such list.
    """
    found = []
    for name, given in named_providers(providers):
        facts = facts_of(name)
        options = dict(facts.defaults)
        if is_quantized and facts.int8_option is not None:
            options[facts.int8_option] = "True"
        if facts.has_profiles and not given.keys() & set(_PROFILES):
            options |= profile_options(input_names, max_length)
        found.append((name, options | dict(given)))
    return tuple(found)


def profile_options(input_names: Sequence[str], max_length: int) -> dict[str, str]:
    """Return the shapes that TensorRT compiles for: 1 token to the longest row, 1 row to 32.

    Without them it compiles anew whenever a call is larger or smaller than all before it, which takes a minute.

    Args:
        input_names: Inputs of the model.
        max_length: Longest row in tokens.

    Returns:
        Options, as https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html names them.
    """
    shapes = ((1, 1), (MAX_PROFILE_BATCH // 4, max(1, max_length // 2)), (MAX_PROFILE_BATCH, max_length))
    return {
        option: ",".join(f"{name}:{batch}x{length}" for name in input_names)
        for option, (batch, length) in zip(_PROFILES, shapes, strict=True)
    }


def cache_options(providers: NamedProviders, cache_dir: Path) -> NamedProviders:
    """Let providers that compile the graph keep what they compiled, in a folder of the user's alone.

    Args:
        providers: Pairs of a name and its options.
        cache_dir: The user's cache of models.

    Returns:
        The same, with the options added where the caller gave none.

    Raises:
        ConfigError: If the folder cannot be made, or is not the user's alone.
    """
    found = []
    for name, given in providers:
        options: dict[str, str] = {}
        if facts_of(name).has_profiles:
            folder = cache_dir / "engines"
            make_private(cache_dir, option="cache_dir")
            make_private(folder, option="cache_dir")
            for cache in _CACHES:
                options |= {f"{cache}_enable": "True", f"{cache}_path": str(folder)}
        found.append((name, options | dict(given)))
    return tuple(found)
