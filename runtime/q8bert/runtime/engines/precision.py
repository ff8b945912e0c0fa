"""In which precision a bundle's products really run: by what the provider does with a quantized graph."""

from collections.abc import Sequence

from q8bert.runtime.engines.provider_table import facts_of
from q8bert.runtime.engines.providers import NamedProviders, Provider, named_providers

__all__ = ["running_precision", "with_int8_enabled"]


def with_int8_enabled(providers: Sequence[Provider]) -> NamedProviders:
    """Let providers take a quantized graph that they refuse unless told; what the caller says himself stands."""
    return tuple(
        (name, {option: "True", **given} if (option := facts_of(name).int8_option) else given)
        for name, given in named_providers(providers)
    )


def running_precision(providers: NamedProviders, precision: str, *, optimization: str = "all") -> tuple[str, str]:
    """Say in which precision the matrix products of a bundle really run.

    Args:
        providers: In order of preference; the first one decides.
        precision: The bundle's: ``int8`` or ``float32``.
        optimization: Level of graph optimization, as in
            :class:`~q8bert.runtime.engines.options.RuntimeOptions`.

    Returns:
        ``int8``, ``float32`` or ``unknown``, and a sentence that says why.
    """
    name, options = providers[0]
    if precision != "int8":
        return "float32", "The bundle is a float32 one."
    facts = facts_of(name)
    if facts.int8_levels is not None and optimization not in facts.int8_levels:
        return "float32", (
            f"At optimization level {optimization!r} {name} dequantizes and multiplies in float32; "
            f"{' and '.join(map(repr, facts.int8_levels))} use its INT8 kernels."
        )
    if facts.int8_option and str(options.get(facts.int8_option, True)).lower() in {"0", "false"}:
        return "unknown", f"{facts.int8_option} is off, and {name} does not take a quantized graph without it."
    note = facts.precision_note or f"It was not tried in which precision {name} runs quantized graphs."
    return facts.precision, note
