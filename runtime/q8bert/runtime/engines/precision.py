"""In which precision a bundle's products really run, in words; and how providers are made to take a quantized graph."""

from collections.abc import Sequence

from q8bert.machine.onnx_runtime import ort
from q8bert.runtime.engines.kernels import Products
from q8bert.runtime.engines.provider_table import facts_of
from q8bert.runtime.engines.providers import NamedProviders, Provider, named_providers

__all__ = ["precision_note", "with_int8_enabled"]


def with_int8_enabled(providers: Sequence[Provider]) -> NamedProviders:
    """Let providers take a quantized graph that they refuse unless told; what the caller says himself stands."""
    return tuple(
        (name, {option: "True", **given} if (option := facts_of(name).int8_option) else given)
        for name, given in named_providers(providers)
    )


def precision_note(products: Products | None, *, bundle_precision: str, providers: NamedProviders) -> str:
    """Say what was counted, and what to do where that is not what the bundle is for.

    Args:
        products: What was counted; None where nobody looked or could.
        bundle_precision: ``int8`` or ``float32``.
        providers: Where it ran.

    Returns:
        A sentence or two.
    """
    where = f"{' and '.join(name for name, _ in providers)}, ONNX Runtime {ort.__version__}"
    if products is None:
        return f"Which kernels run is not known: {where} does not tell."
    n_all = products.n_integer + products.n_float
    note = f"{products.n_integer} of {n_all} products with weights run in integers ({where})."
    if bundle_precision == "int8" and not products.n_integer:
        note = f"{note} {facts_of(providers[0][0]).float_note}".rstrip()
    return note
