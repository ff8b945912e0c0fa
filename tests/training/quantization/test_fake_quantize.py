"""Fake quantization against numpy, and its gradient against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

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
@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("kind", ["random", "zero", "zero row", "tiny", "huge"])
def test_weights_equal_the_numpy_oracle_bit_for_bit(axis: int | None, kind: str, saturation_free: bool) -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    weight = {"zero": weight * 0, "tiny": weight * 1e-30, "huge": weight * 1e30}.get(kind, weight)
    if kind == "zero row":
        weight[2] = 0
    array = weight.numpy()
    of_rows = spec_saturation.pair_amax(array) if saturation_free else np.abs(array).max(axis=1)
    amax = of_rows[:, None] if axis == 0 else of_rows.max().reshape(1, 1)
    check_weight(weight, WeightGrid(axis, saturation_free), quant.scale_from_amax(amax))


@pytest.mark.parametrize("rows", [1, 7, 5000])  # of 5000, some are rounded at a time
def test_tables_with_a_scale_a_column_equal_the_numpy_oracle_bit_for_bit(rows: int) -> None:
    table = torch.randn(rows, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 3, 96)
    table[:, 5] = 0
    check_weight(table, WeightGrid(1), quant.scale_from_amax(np.abs(table.numpy()).max(axis=0))[None])


def check_weight(weight: torch.Tensor, grid: WeightGrid, scale: NDArray[np.float32]) -> None:
    codes = quant.quantize(weight.numpy(), scale, qmin=-127, qmax=127)
    our_codes, our_scale = quantize_weight(weight, grid)
    out = torch.empty_like(weight)
    fake_quantize_weight_(out, weight, grid)

    np.testing.assert_array_equal(our_scale.numpy(), scale)
    np.testing.assert_array_equal(our_codes.numpy(), codes)
    np.testing.assert_array_equal(out.numpy(), quant.dequantize(codes, scale))


@given(
    st.lists(st.floats(-16384, 16384, width=32, allow_subnormal=False), min_size=1),
    st.floats(2**-13, 1024, width=32),
    st.integers(-63, 63).map(lambda half: 2 * half),
)
def test_activations_equal_the_numpy_oracle_bit_for_bit(values: list[float], amax: float, zero_point: int) -> None:
    x = np.array(values, dtype=np.float32)
    scale = quant.scale_from_amax(amax)
    expected = quant.fake_quantize(x, scale, qmin=-128, qmax=127, zero_point=zero_point)
    ours = fake_quantize(torch.from_numpy(x), scale_from_amax(torch.tensor(amax)), torch.tensor(float(zero_point)))
    np.testing.assert_array_equal(ours.numpy(), expected)


@pytest.mark.parametrize("zero_point", [0, -100, 44])
def test_gradient_is_torchs_straight_through_and_zero_outside_the_clamp(zero_point: int) -> None:
    scale = 0.125  # a power of two, so that torch's multiplication by 1/scale rounds as a division does
    values = torch.tensor([-100.0, -16.1, -16.0, -3.3, 0.0, 0.4, 15.8, 15.9, 16.0, 100.0])
    x = (values - zero_point * scale).requires_grad_()
    weights = torch.arange(1.0, 11.0)
    (fake_quantize(x, torch.tensor(scale), torch.tensor(float(zero_point))) * weights).sum().backward()
    ours, x.grad = x.grad, None
    (torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127) * weights).sum().backward()
    torch.testing.assert_close(ours, x.grad, rtol=0, atol=0)
    assert ours is not None
    assert ours[0] == 0
    assert ours[-1] == 0
