"""Which form of a bundle's model runs: the one that was asked for, or the one that suits the first provider."""

from collections.abc import Sequence
from typing import Annotated

from q8bert.runtime.engines.engine import ONNX_RUNTIME
from q8bert.runtime.engines.providers.table import facts_of
from q8bert.spec.bundle.bundle import Manifest
from q8bert.spec.bundle.targets import MAIN, TARGETS
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import one_of

__all__ = ["AUTO", "GRAPHS", "GraphName", "chosen_graph"]

AUTO = "auto"
GRAPHS = (AUTO, MAIN, *TARGETS)
GraphName = Annotated[str, one_of(GRAPHS)]


def chosen_graph(manifest: Manifest, *, engine: str, providers: Sequence[str], asked: str) -> str:
    """Return the form of a bundle's model that is to run.

    Args:
        manifest: Of the bundle.
        engine: ``onnxruntime`` or ``openvino``.
        providers: Names of ONNX Runtime's execution providers, in order.
        asked: ``auto``, ``main`` or a target.

    Returns:
        ``main`` or a target of the bundle.

    Raises:
        ConfigError: If the bundle has not the form that was asked for.
    """
    if asked not in {AUTO, MAIN} and asked not in manifest.targets:
        there = ", ".join((MAIN, *manifest.targets))
        raise ConfigError([
            f"graph {asked!r} was asked for, but the bundle has {there}. Export it with --target {asked}"
        ])  # fmt: skip
    if asked != AUTO:
        return asked
    suited = facts_of(providers[0]).targets if engine == ONNX_RUNTIME and providers else ()
    return next((target for target in suited if target in manifest.targets), MAIN)
