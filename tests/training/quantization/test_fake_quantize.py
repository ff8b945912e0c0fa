"""Fake quantization against numpy, and its gradient against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from q8bert.spec import quant
from q8bert.spec import saturation as spec_saturation
from q8bert.training.quantization.fake_quantize import (
    WeightGrid,
    fake_quantize,
    fake_quantize_weight_,
    quantize_weight,
    scale_from_amax,
)


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
