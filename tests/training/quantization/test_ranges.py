"""Ranges against the formula by hand."""

import pytest
import torch

from q8bert.spec.errors import CalibrationError
from q8bert.training.quantization.ranges import RangeState, refuse_infinite


def test_ranges_follow_the_bias_corrected_average() -> None:
    observed = [3.0, 1.0, 7.0, 2.0]
    state = RangeState.empty(1, decay=0.9)
    weighted, total = 0.0, 0.0
    for value in observed:
        state = state.observe(torch.tensor([value]))
        # the definition: each observation weighs decay^age, and the weights are made to sum to one
        weighted, total = 0.9 * weighted + value, 0.9 * total + 1.0
        assert float(state.amax()) == pytest.approx(weighted / total, rel=1e-6)


def test_first_batch_does_not_set_the_range_for_long() -> None:
    state = RangeState.empty(1, decay=0.9999).observe(torch.tensor([100.0]))
    for _ in range(99):
        state = state.observe(torch.tensor([1.0]))
    assert float(state.amax()) == pytest.approx((100 + 99) / 100, rel=0.01)  # nearly the plain mean of 100 values


def test_ranges_are_never_zero_and_states_are_values() -> None:
    empty = RangeState.empty(2, decay=0.5)
    state = empty.observe(torch.zeros(2))
    assert (state.amax() > 0).all()
    assert empty.count == 0
    with pytest.raises(CalibrationError, match="before any batch"):
        empty.amax()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_observation_that_is_not_finite_stops_training(bad: float) -> None:
    refuse_infinite(torch.tensor([1.0, 2.0]))
    with pytest.raises(CalibrationError, match=r"sites \[1\] .* diverged"):
        refuse_infinite(torch.tensor([1.0, bad]))
