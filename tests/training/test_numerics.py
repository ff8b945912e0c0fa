"""Fake quantization, ranges, schedule: each against numpy, torch's own, or the formula by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from q8bert.spec import quant
from q8bert.spec import saturation as spec_saturation
from q8bert.spec.errors import CalibrationError
from q8bert.training.fake_quantize import (
    WeightGrid,
    fake_quantize,
    fake_quantize_weight_,
    quantize_weight,
    scale_from_amax,
)
from q8bert.training.optimization import adamw, learning_rate_at
from q8bert.training.ranges import RangeState


@pytest.mark.parametrize("saturation_free", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", ["random", "zero", "zero row", "tiny", "huge"])
def test_weights_equal_the_numpy_oracle_bit_for_bit(per_channel: bool, kind: str, saturation_free: bool) -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    weight = {"zero": weight * 0, "tiny": weight * 1e-30, "huge": weight * 1e30}.get(kind, weight)
    if kind == "zero row":
        weight[2] = 0
    array = weight.numpy()
    of_rows = spec_saturation.pair_amax(array) if saturation_free else np.abs(array).max(axis=1)
    amax = of_rows[:, None] if per_channel else of_rows.max().reshape(1, 1)
    scale = quant.scale_from_amax(amax)
    codes = quant.quantize(array, scale, qmin=-127, qmax=127)

    grid = WeightGrid(per_channel=per_channel, saturation_free=saturation_free)
    our_codes, our_scale = quantize_weight(weight, grid)
    out = torch.empty_like(weight)
    fake_quantize_weight_(out, weight, grid)

    np.testing.assert_array_equal(our_scale.numpy(), scale)
    np.testing.assert_array_equal(our_codes.numpy(), codes)
    np.testing.assert_array_equal(out.numpy(), quant.dequantize(codes, scale))


@given(
    st.lists(st.floats(-16384, 16384, width=32, allow_subnormal=False), min_size=1), st.floats(2**-13, 1024, width=32)
)
def test_activations_equal_the_numpy_oracle_bit_for_bit(values: list[float], amax: float) -> None:
    x = np.array(values, dtype=np.float32)
    scale = quant.scale_from_amax(amax)
    expected = quant.fake_quantize(x, scale, qmin=-128, qmax=127)
    ours = fake_quantize(torch.from_numpy(x), scale_from_amax(torch.tensor(amax)))
    np.testing.assert_array_equal(ours.numpy(), expected)


def test_gradient_is_torchs_straight_through_and_zero_outside_the_clamp() -> None:
    scale = 0.125  # a power of two, so that torch's multiplication by 1/scale rounds as a division does
    x = torch.tensor([-100.0, -16.1, -16.0, -3.3, 0.0, 0.4, 15.8, 15.9, 16.0, 100.0], requires_grad=True)
    weights = torch.arange(1.0, 11.0)
    (fake_quantize(x, torch.tensor(scale)) * weights).sum().backward()
    ours, x.grad = x.grad, None
    (torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127) * weights).sum().backward()
    torch.testing.assert_close(ours, x.grad, rtol=0, atol=0)
    assert ours is not None
    assert ours[0] == 0
    assert ours[-1] == 0


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
    with pytest.raises(CalibrationError, match=r"sites \[1\] .* diverged"):
        RangeState.empty(2, decay=0.5).observe(torch.tensor([1.0, bad]))


def test_learning_rate_warms_up_linearly_and_decays_polynomially() -> None:
    options = {"peak": 1.0, "end": 0.1, "n_steps": 12, "warmup_ratio": 1 / 6, "power": 2.0}
    rates = [learning_rate_at(step, **options) for step in range(13)]  # type: ignore[arg-type]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([0.9 * (1 - step / 10) ** 2 + 0.1 for step in range(11)])


def test_biases_and_layer_norm_are_not_decayed() -> None:
    model = nn.ModuleDict({"dense": nn.Linear(2, 2), "LayerNorm": nn.LayerNorm(2), "sa_layer_norm": nn.LayerNorm(2)})
    decayed, undecayed = adamw(dict(model.named_parameters()), weight_decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1
    assert [id(parameter) for parameter in decayed["params"]] == [id(model["dense"].weight)]
    assert undecayed["weight_decay"] == 0.0
    assert len(undecayed["params"]) == 5
