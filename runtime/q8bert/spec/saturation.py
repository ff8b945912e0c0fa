"""Why INT8 products can go wrong on CPUs without VNNI, and the weights with which they cannot.

Without VNNI, x86 CPUs multiply unsigned activation codes ``a`` (0…255; int8 codes plus 128) by signed weight codes
``w`` with an instruction (``vpmaddubsw``) that adds two neighbouring products in 16 bits, and saturates:

    clip(a₂ᵢ · w₂ᵢ + a₂ᵢ₊₁ · w₂ᵢ₊₁, −32768, 32767)

Pairs lie along the axis that is summed over (K of ``MatMul``). A pair of opposite signs cannot leave the range, for
255 · 127 < 32768. One of equal signs cannot either if ``|w₂ᵢ + w₂ᵢ₊₁| ≤ 128``, for 255 · 128 < 32768; so that one
condition says it for both.

The cure costs no instruction and changes no code afterwards: the scale of a weight is taken from the largest absolute
value of its elements *and of the sums of its pairs*, :func:`pair_amax`. Rounding moves each code of a pair by at most
1/2, so ``|w₂ᵢ + w₂ᵢ₊₁| ≤ 127 + 1``. It is all numpy here: the oracle of the tests.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_PAIR_SUM", "count_unsafe_pairs", "pair_amax", "saturating_matmul"]

MAX_PAIR_SUM = 128
_INT16_MIN, _INT16_MAX = -(2**15), 2**15 - 1


def pair_amax(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest absolute value of each row's elements and sums of neighbouring pairs.

    Args:
        weight: Float32 ``(out_features, in_features)``; pairs are columns 2i and 2i + 1, a last odd one stands alone.

    Returns:
        Float32 ``(out_features,)``, real units.
    """
    sums = weight[:, : weight.shape[1] // 2 * 2 : 2] + weight[:, 1::2]
    largest = np.maximum(np.abs(weight).max(axis=1), np.abs(sums).max(axis=1, initial=0.0))
    return np.asarray(largest, dtype=np.float32)


def count_unsafe_pairs(codes: NDArray[np.int8]) -> int:
    """Count the pairs of weight codes whose products can overflow 16 bits for some activation.

    Args:
        codes: Int8 ``(in_features, out_features)``, as ``MatMul`` takes its second factor.

    Returns:
        Pairs with ``|w₂ᵢ + w₂ᵢ₊₁| > 128``.
    """
    wide = codes.astype(np.int16)
    return int(np.count_nonzero(np.abs(wide[: len(wide) // 2 * 2 : 2] + wide[1::2]) > MAX_PAIR_SUM))


def saturating_matmul(activations: NDArray[np.uint8], codes: NDArray[np.int8]) -> NDArray[np.int32]:
    """Multiply as a CPU with AVX2 and without VNNI does: pair sums in 16 bits, the rest in 32.

    Args:
        activations: Uint8 ``(rows, in_features)``.
        codes: Int8 ``(in_features, out_features)``.

    Returns:
        Int32 ``(rows, out_features)``; equal to the exact product where no pair saturates.
    """
    padding = codes.shape[0] % 2
    a = np.pad(activations, ((0, 0), (0, padding))).astype(np.int32)
    w = np.pad(codes, ((0, padding), (0, 0))).astype(np.int32)
    total = np.zeros((len(a), w.shape[1]), dtype=np.int32)
    for at in range(0, w.shape[0], 2):
        pair = a[:, at, None] * w[at] + a[:, at + 1, None] * w[at + 1]
        total += np.clip(pair, _INT16_MIN, _INT16_MAX)
    return total
