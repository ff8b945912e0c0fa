"""Which layers to keep in float so that a model loses no more than is wanted.

Errors of layers do not add up: on MiniLM, those of all layers alone come to half of what the whole model loses, and a
layer that costs little alone may make much of what the others cost. So layers are ranked by what the model loses with
all but them in INT8, and taken in this order until the loss that is wanted is reached, which is measured; then each
that turned out not to be needed is given back, the largest first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from q8bert.export.sensitivity.measurement import Change, Part, Yardstick
from q8bert.export.sensitivity.simulation import PartlyQuantized

__all__ = ["Proposal", "propose"]


@dataclass(frozen=True)
class Proposal:
    """Layers to keep in float.

    Attributes:
        keep_float: Names of layers, as ``--keep-float`` takes them; none where nothing needs to be kept.
        change: How far the model is from the float one with these kept.
        extra_bytes: What the model grows by.
    """

    keep_float: tuple[str, ...]
    change: Change
    extra_bytes: int


def propose(yardstick: Yardstick, parts: Sequence[Part], reached: Callable[[Change], bool]) -> Proposal | None:
    """Find a least set of layers with which a wanted loss is reached: none of them can be left out.

    Args:
        yardstick: Measures partly quantized models.
        parts: Layers, and activations, which are none.
        reached: Whether a change is small enough.

    Returns:
        The layers; None where all but one Linear do not suffice.
    """
    ranked = sorted((part for part in parts if part.n_weights), key=lambda part: part.all_but.relative_error)
    linears = [part for part in ranked if part.kind == "linear"]
    ranked = [part for part in ranked if part is not linears[-1]]  # a model without any INT8 product is none of ours

    def change(kept: Sequence[Part]) -> Change:
        return yardstick.change(PartlyQuantized.whole(yardstick.model, keep_float={part.name for part in kept}))

    low, high = -1, len(ranked)  # so many do not suffice, so many do
    if not reached(change(ranked)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(change(ranked[:middle])) else (middle, high)
    kept = ranked[:high]
    for part in sorted(kept, key=lambda part: -part.n_weights):
        fewer = [other for other in kept if other is not part]
        if reached(change(fewer)):
            kept = fewer
    return Proposal(tuple(part.name for part in kept), change(kept), _extra_bytes(kept))


def _extra_bytes(parts: Sequence[Part]) -> int:
    """Return what a model grows by where these layers are float: four bytes a weight instead of one."""
    return sum(3 * part.n_weights for part in parts)
