"""The 16-bit fault in numpy, and the scales with which it cannot happen."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from q8bert.spec import quant
from q8bert.spec.saturation import count_unsafe_pairs, pair_amax, saturating_matmul

EVERY_CODE = np.arange(-127, 128)


def test_a_pair_is_unsafe_exactly_if_some_activations_overflow() -> None:
    first, second = (axis.ravel() for axis in np.meshgrid(EVERY_CODE, EVERY_CODE))
    # the sum of two products is linear in each activation, so its extremes are at the ends of their ranges
    sums = np.array([a * first + b * second for a, b in itertools.product((0, 255), repeat=2)])
    overflows = (sums < -(2**15)) | (sums > 2**15 - 1)
    ours = [count_unsafe_pairs(np.array([[w], [v]], dtype=np.int8)) for w, v in zip(first, second, strict=True)]
    np.testing.assert_array_equal(np.array(ours, dtype=bool), overflows.any(axis=0))


@pytest.mark.parametrize("n_features", [1, 2, 7, 8])
def test_without_saturation_the_model_is_the_exact_product(n_features: int) -> None:
    rng = np.random.default_rng(n_features)
    a = rng.integers(0, 256, (5, n_features)).astype(np.uint8)
    w = rng.integers(-64, 65, (n_features, 4)).astype(np.int8)
    np.testing.assert_array_equal(saturating_matmul(a, w), a.astype(np.int32) @ w.astype(np.int32))


def test_large_codes_saturate_on_adversarial_activations() -> None:
    # 255 · 127 + 255 · 127 = 64770 becomes 32767; −(255 · 127) · 2 becomes −32768; opposite signs are exact
    w = np.array([[127, -127, 127], [127, -127, -127]], dtype=np.int8)
    full = np.full((1, 2), 255, dtype=np.uint8)
    np.testing.assert_array_equal(saturating_matmul(full, w), [[32767, -32768, 0]])
    alternating = np.array([[255, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(saturating_matmul(alternating, w), [[32385, -32385, 32385]])


WEIGHTS = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    elements=st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False),
)


@given(WEIGHTS, st.booleans())
def test_scales_of_pairs_leave_no_pair_unsafe(weight: np.ndarray, per_channel: bool) -> None:
    of_rows = pair_amax(weight)
    scale = quant.scale_from_amax(of_rows[:, None] if per_channel else of_rows.max().reshape(1, 1))
    codes = quant.quantize(weight, scale, qmin=-127, qmax=127)
    assert count_unsafe_pairs(codes.T) == 0
    for activations in (np.full((1, weight.shape[1]), 255), np.arange(weight.shape[1])[None] % 2 * 255):
        a = activations.astype(np.uint8)
        np.testing.assert_array_equal(saturating_matmul(a, codes.T), a.astype(np.int32) @ codes.T.astype(np.int32))
