"""In which precision a bundle's products really run, in words."""

from q8bert.runtime.engines.engine import Engine
from q8bert.spec.bundle.targets import MAIN

__all__ = ["precision_note"]


def precision_note(engine: Engine, *, bundle_precision: str, graph: str = MAIN) -> str:
    """Say what was counted, and what to do where that is not what the bundle is for.

    Args:
        engine: The loaded model.
        bundle_precision: ``int8`` or ``float32``.
        graph: Which form of the model runs: ``main`` or a target.

    Returns:
        A sentence or two.
    """
    products = engine.products
    if products is None:
        return f"Which kernels run is not known: {engine.place} does not tell."
    n_all = products.n_integer + products.n_float
    note = f"{products.n_integer} of {n_all} products with weights run in integers ({engine.place})."
    if graph != MAIN:
        return f"{note} It is the bundle's graph for {graph}."
    if bundle_precision == "int8" and not products.n_integer:
        note = f"{note} {engine.float_note}".rstrip()
    return note
