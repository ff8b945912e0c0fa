"""Zero points against the grid itself, in numpy, and against all other zero points."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from q8bert.spec import quant
from q8bert.training.quantization.zero_points import LARGEST_ZERO_POINT, covering_amax, fitting_zero_point

VALUES = st.floats(-1024, 1024, width=32, allow_subnormal=False)
ALL_ZERO_POINTS = range(-LARGEST_ZERO_POINT, LARGEST_ZERO_POINT + 1, 2)


def amax_of(lowest: float, highest: float, zero_point: int) -> float:
    return float(covering_amax(torch.tensor(lowest), torch.tensor(highest), zero_point))


@given(VALUES, VALUES, st.sampled_from(ALL_ZERO_POINTS))
def test_a_range_reaches_all_values_and_no_further_than_it_must(one: float, other: float, zero_point: int) -> None:
    lowest, highest = min(one, other, 0.0), max(one, other, 0.0)
    amax = amax_of(lowest, highest, zero_point)
    assume(amax > 1e-3)
    x = np.array([lowest, highest], dtype=np.float32)
    codes = quant.quantize(x, quant.scale_from_amax(amax), qmin=-1000, qmax=1000, zero_point=zero_point)
    assert codes.min() >= -127
    assert codes.max() <= 127
    assert codes.min() == -127 or codes.max() == 127


@given(VALUES, VALUES)
def test_with_zero_point_0_a_range_is_the_largest_absolute_value_to_the_bit(one: float, other: float) -> None:
    lowest, highest = min(one, other), max(one, other)
    for zero_point in (0, torch.tensor(0.0)):
        found = covering_amax(torch.tensor(lowest), torch.tensor(highest), zero_point)
        assert found.item() == max(abs(lowest), abs(highest))


@given(VALUES, VALUES)
def test_the_fitting_zero_point_has_the_smallest_range_of_all(one: float, other: float) -> None:
    lowest, highest = min(one, other), max(one, other)
    found = fitting_zero_point(lowest, highest)
    assert found in ALL_ZERO_POINTS
    best = min(amax_of(lowest, highest, zero_point) for zero_point in ALL_ZERO_POINTS)
    assert amax_of(lowest, highest, found) == pytest.approx(best, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [(-1.0, 1.0, 0), (0.0, 5.0, -126), (-5.0, 0.0, 126), (-0.17, 25.0, -124), (-1.0, 3.0, -64), (0.0, 0.0, 0)],
)
def test_zero_points_by_hand(lowest: float, highest: float, expected: int) -> None:
    assert fitting_zero_point(lowest, highest) == expected
