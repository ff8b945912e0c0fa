"""Zero points: where on the grid of an activation 0 lies, so that one-sided activations use all of it.

GELU's outputs are above −0.17, and outputs of LayerNorm may lie to one side too. A symmetric grid spends half of its
codes on values that never come. With a zero point ``z``,

    code = clip(round_half_even(x / scale) + z, −128, 127),    real = (code − z) · scale,

and the grid reaches from ``−(127 + z) · scale`` (and one step further) to ``(127 − z) · scale``. A range stays one
number a site, ``amax = 127 · scale``: the smallest with which the grid reaches all values,

    amax = max(max(x) · 127 / (127 − z), −min(x) · 127 / (127 + z)),

which is ``max |x|`` for ``z = 0``. So zero points are decided once, where quantization starts, and ranges are learned
as without. They are even: then half goes to even in ``round(x / scale) + z`` as in ``round(x / scale + z)``, and it
does not matter which of the two a runtime computes. An even one is at most a step from the best, of 254.

References:
    ONNX ``QuantizeLinear``, whose ``y_zero_point`` this is.
"""

import math

import torch
from torch import Tensor

from q8bert.spec.quant import ACTIVATION_QMAX

__all__ = ["LARGEST_ZERO_POINT", "covering_amax", "fitting_zero_point"]

LARGEST_ZERO_POINT = 126  # even, and one step is left for the other side


def covering_amax(lowest: Tensor, highest: Tensor, zero_point: Tensor | int) -> Tensor:
    """Return the smallest range with which a grid reaches all values.

    Args:
        lowest: Float32, least value, real units.
        highest: Float32, greatest value, of the same shape.
        zero_point: Of the grid, −126…126.

    Returns:
        Float32 of the same shape, real units; with zero point 0 the largest absolute value, to the bit.
    """
    above = highest * (ACTIVATION_QMAX / (ACTIVATION_QMAX - zero_point))
    below = lowest * (-ACTIVATION_QMAX / (ACTIVATION_QMAX + zero_point))
    return torch.maximum(above, below)


def fitting_zero_point(lowest: float, highest: float) -> int:
    """Return the even zero point with which the smallest range reaches from the least to the greatest value.

    ``highest / (127 − z) = −lowest / (127 + z)`` has the solution ``−127 (highest + lowest) / (highest − lowest)``; of
    the even numbers beside it one is the best, for one of the two sides grows with ``z`` and the other falls.

    Args:
        lowest: Least value, real units.
        highest: Greatest value, real units.

    Returns:
        −126…126; 0 where all values are 0.
    """
    spread = highest - lowest
    if not spread > 0:  # all the same value
        return LARGEST_ZERO_POINT * ((highest < 0) - (highest > 0))
    even = 2 * math.floor(-ACTIVATION_QMAX * (highest + lowest) / spread / 2)
    beside = (max(-LARGEST_ZERO_POINT, min(LARGEST_ZERO_POINT, z)) for z in (even, even + 2))
    low, high = torch.tensor(lowest), torch.tensor(highest)
    return min(beside, key=lambda z: float(covering_amax(low, high, z)))
