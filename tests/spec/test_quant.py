"""The quantization formula in numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from q8bert.spec import quant
from q8bert.spec.errors import CalibrationError


def one_value_oracle(x: float, scale: float, qmin: int, qmax: int) -> int:
    """Python's own round() rounds half to even."""
    return min(max(round(x / scale), qmin), qmax)


def test_rounding_is_half_to_even_and_clamps() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 1e9, -127.5, -128.5, -1e9], dtype=np.float32)
    codes = quant.quantize(x, 1.0, qmin=-128, qmax=127)
    assert codes.tolist() == [0, 2, 2, 0, -2, 126, 127, 127, -128, -128, -128]
    assert quant.quantize(x, 1.0, qmin=-127, qmax=127).min() == -127


@given(
    st.lists(st.floats(-512, 512, width=32, allow_subnormal=False), min_size=1),
    st.sampled_from([2.0**-4, 0.25, 1.0, 8.0]),
)
def test_codes_equal_python_arithmetic(values: list[float], scale: float) -> None:
    # a power of two as scale, so that dividing is exact in every precision
    codes = quant.quantize(np.array(values, dtype=np.float32), scale, qmin=-128, qmax=127)
    assert codes.tolist() == [one_value_oracle(value, scale, -128, 127) for value in values]


@given(st.lists(st.floats(-1000, 1000, width=32, allow_subnormal=False), min_size=1))
def test_error_inside_the_range_is_at_most_half_a_step(values: list[float]) -> None:
    x = np.array(values, dtype=np.float32)
    scale = quant.scale_from_amax(float(np.abs(x).max()))
    error = np.abs(quant.fake_quantize(x, scale, qmin=-127, qmax=127) - x)
    assert error.max() <= float(scale) / 2 * (1 + 1e-5)


def test_scale_of_zeros_is_positive_and_zeros_stay_zero() -> None:
    scale = quant.scale_from_amax(np.zeros(3, dtype=np.float32))
    assert (scale > 0).all()
    assert not quant.fake_quantize(np.zeros(3, dtype=np.float32), scale, qmin=-127, qmax=127).any()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_impossible_scales_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="scale must be finite and > 0"):
        quant.quantize(np.ones(1, dtype=np.float32), bad, qmin=-127, qmax=127)
    if bad != 0:
        with pytest.raises(CalibrationError, match="amax must be finite"):
            quant.scale_from_amax(bad)
