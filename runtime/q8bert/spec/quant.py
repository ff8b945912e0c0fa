"""INT8 quantization in numpy: the formula everything else is compared with.

``scale`` and ``zero_point`` are ONNX's: real units per integer step, and the code of 0, so
``real = (code - zero_point) * scale``. Zero points of weights are always 0. Activations use the
codes −128…127, as ONNX ``QuantizeLinear`` to int8 does; weights use −127…127, so that a weight and
its negative are both representable. Rounding is half to even, again as in ONNX.

Q8BERT (Zafrir et al. 2019, arXiv 1910.06188) writes the same with the inverse scale
``S = 127 / max|x|``; here ``scale = max|x| / 127``.
"""

import numpy as np
from numpy.typing import NDArray

from q8bert.spec.errors import CalibrationError

__all__ = [
    "ACTIVATION_QMAX",
    "ACTIVATION_QMIN",
    "MIN_AMAX",
    "WEIGHT_QMAX",
    "WEIGHT_QMIN",
    "dequantize",
    "fake_quantize",
    "quantize",
    "scale_from_amax",
]

ACTIVATION_QMIN, ACTIVATION_QMAX = -128, 127
WEIGHT_QMIN, WEIGHT_QMAX = -127, 127

# A tensor of zeros has amax 0, and scale 0 divides by zero. Any positive floor gives code 0 for
# every zero; this one keeps scale (7.5e-9) far from the subnormal numbers that some kernels flush.
MIN_AMAX = 2.0**-20


def scale_from_amax(amax: NDArray[np.float32] | float) -> NDArray[np.float32]:
    """Turn the largest absolute value into a scale, ``max(amax, MIN_AMAX) / 127``.

    Args:
        amax: Largest absolute value, real units; a scalar or one value per channel.

    Returns:
        Float32 scale of the same shape, always > 0.

    Raises:
        CalibrationError: If any ``amax`` is negative or not finite.
    """
    values = np.asarray(amax, dtype=np.float32)
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise CalibrationError(f"amax must be finite and >= 0, got {values.tolist()}")
    return (np.maximum(values, np.float32(MIN_AMAX)) / np.float32(WEIGHT_QMAX)).astype(np.float32)


def quantize(
    x: NDArray[np.float32], scale: NDArray[np.float32] | float, *, qmin: int, qmax: int, zero_point: int = 0
) -> NDArray[np.int8]:
    """Return the integer codes of ``x``: ``clip(round_half_even(x / scale) + zero_point, qmin, qmax)``.

    Args:
        x: Weights or activations, real units, any shape.
        scale: Real units per integer step, > 0; broadcast against ``x``.
        qmin: Smallest code, inclusive.
        qmax: Largest code, inclusive.
        zero_point: Code of 0.

    Returns:
        Int8 array of the shape of ``x``.

    Raises:
        CalibrationError: If any ``scale`` is zero, negative or not finite.
    """
    step = np.asarray(scale, dtype=np.float32)
    if not np.all(np.isfinite(step)) or np.any(step <= 0):
        raise CalibrationError(f"scale must be finite and > 0, got {step.tolist()}")
    codes: NDArray[np.int8] = np.clip(np.rint(x.astype(np.float32) / step) + zero_point, qmin, qmax).astype(np.int8)
    return codes


def dequantize(
    codes: NDArray[np.int8], scale: NDArray[np.float32] | float, *, zero_point: int = 0
) -> NDArray[np.float32]:
    """Return the real values of integer codes, ``(codes - zero_point) * scale``.

    Args:
        codes: Int8 array, any shape.
        scale: Real units per integer step; broadcast against ``codes``.
        zero_point: Code of 0.

    Returns:
        Float32 array of the shape of ``codes``.
    """
    return (codes.astype(np.float32) - np.float32(zero_point)) * np.asarray(scale, dtype=np.float32)


def fake_quantize(
    x: NDArray[np.float32], scale: NDArray[np.float32] | float, *, qmin: int, qmax: int, zero_point: int = 0
) -> NDArray[np.float32]:
    """Round ``x`` to the integer grid and return it in real units.

    This is what an ONNX ``QuantizeLinear`` → ``DequantizeLinear`` pair gives back.

    Args:
        x: Weights or activations, real units, any shape.
        scale: Real units per integer step, > 0; broadcast against ``x``.
        qmin: Smallest code, inclusive.
        qmax: Largest code, inclusive.
        zero_point: Code of 0.

    Returns:
        Float32 array of the shape of ``x``, each element a multiple of its ``scale``.
    """
    return dequantize(quantize(x, scale, qmin=qmin, qmax=qmax, zero_point=zero_point), scale, zero_point=zero_point)
