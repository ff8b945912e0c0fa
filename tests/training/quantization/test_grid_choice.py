"""The choice of smoothing and zero point against the error of the product, computed in numpy."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from q8bert.spec import quant
from q8bert.spec.saturation import pair_amax
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.grid_choice import Reader, choose_grid, observed_ranges, product_error
from q8bert.training.quantization.seen_site import RowSample, SeenSite
from q8bert.training.quantization.sites import Site

Array = NDArray[np.float32]
SITE = Site("a.input", ("a", "b"))
GRIDS = (WeightGrid(0, saturation_free=True), WeightGrid(None))


def rounded_weight(weight: Array, grid: WeightGrid) -> Array:
    largest = pair_amax(weight) if grid.saturation_free else np.abs(weight).max(axis=1)
    scale = quant.scale_from_amax(largest[:, None] if grid.axis == 0 else largest.max())
    return quant.fake_quantize(weight, scale, qmin=-127, qmax=127)


def error_by_hand(site: Site, rows: Array, extremes: list[tuple[float, float]], weights: list[Array]) -> float:
    """The error of both products, with the mean range of the observations."""
    z = site.zero_point
    amax = np.mean([max(high * 127 / (127 - z), -low * 127 / (127 + z)) for low, high in extremes], dtype=np.float32)
    factors = 2.0 ** np.array(site.smoothing or [0] * rows.shape[1], dtype=np.float32)
    scale = quant.scale_from_amax(amax)
    x = quant.fake_quantize(rows / factors, scale, qmin=-128, qmax=127, zero_point=z).astype(np.float64)
    return sum(
        float(((x @ rounded_weight(weight * factors, grid).T - rows @ weight.T.astype(np.float64)) ** 2).sum())
        for weight, grid in zip(weights, GRIDS, strict=True)
    )


class Case:
    """Rows of two observations, and two Linear layers that read them."""

    def __init__(self, rows: Array, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.rows = rows
        self.halves = np.split(rows, 2)
        self.weights = [rng.normal(size=(n, rows.shape[1])).astype(np.float32) for n in (5, 8)]
        self.readers = [Reader(torch.from_numpy(w), grid) for w, grid in zip(self.weights, GRIDS, strict=True)]

    def seen(self, rows: Array | None = None) -> SeenSite:
        lowest = np.stack([np.minimum(half.min(axis=0), 0) for half in self.halves])
        highest = np.stack([np.maximum(half.max(axis=0), 0) for half in self.halves])
        return SeenSite(*(torch.from_numpy(x) for x in (lowest, highest, self.rows if rows is None else rows)))

    def choose(self, rows: Array | None = None, **changes: Any) -> Site:
        # a decay of almost 1 makes a range the plain mean of what was observed
        options: dict[str, Any] = {"decay": 1 - 1e-9, "smoothing": True, "zero_points": True}
        return choose_grid(SITE, self.seen(rows), self.readers, **(options | changes))

    def error(self, site: Site) -> float:
        factors = 2.0 ** np.array(site.smoothing or [0] * self.rows.shape[1])
        extremes = [((half / factors).min(), (half / factors).max()) for half in self.halves]
        return error_by_hand(site, self.rows, extremes, self.weights)


@pytest.mark.parametrize("percentile", [100.0, 99.0, 90.0])
@pytest.mark.parametrize("zero_point", [0, -40])
@pytest.mark.parametrize("smoothed", [False, True])
def test_a_percentile_is_that_of_the_values_from_both_ends(percentile: float, zero_point: int, smoothed: bool) -> None:
    rows = drawn(50, 6)
    exponents = (0, 1, 0, 2, 0, 0) if smoothed else ()
    site = Site("a.input", ("a",), exponents, zero_point=zero_point)
    found = observed_ranges([site], [Case(rows).seen()], percentile=percentile)
    ordered = np.sort((rows / 2.0 ** np.array(exponents or [0] * 6, dtype=np.float32)).flatten())
    rank = int(np.ceil(percentile / 100 * 300))
    below, above = -ordered[300 - rank], ordered[rank - 1]
    expected = max(above * 127 / (127 - zero_point), below * 127 / (127 + zero_point))
    np.testing.assert_allclose(found, [[expected]], rtol=1e-6)


def test_a_percentile_is_the_mean_over_processes() -> None:
    rows = drawn(50, 6)

    def with_another(tensor: torch.Tensor) -> None:
        tensor += torch.tensor([5.0, 7.0, 1.0])  # below, above, and itself

    found = observed_ranges([Site("a.input", ("a",))], [Case(rows).seen()], percentile=100.0, take_sum=with_another)
    expected = max((rows.max() + 7.0) / 2, (5.0 - rows.min()) / 2)
    np.testing.assert_allclose(found, [[expected]], rtol=1e-6)


def test_the_zero_point_fits_the_percentiles_not_the_outliers() -> None:
    sample = np.abs(drawn(100, 8))
    rows = sample.copy()
    rows[0, 0] = -40.0  # all else lies to one side
    plain = Case(rows).choose(sample, smoothing=False)
    clipped = Case(rows).choose(sample, smoothing=False, percentile=99.9)
    assert plain.zero_point > 0  # most codes lie below 0, where one value is
    assert clipped.zero_point == -126


def drawn(n_rows: int = 120, n_channels: int = 64) -> Array:
    return np.random.default_rng(1).normal(size=(n_rows, n_channels)).astype(np.float32)


def with_outlier() -> Array:
    rows = drawn()
    rows[:, 7] *= 30
    return rows


def one_sided() -> Array:
    return np.maximum(drawn(), -0.1)


CASES = {
    "plain": drawn,
    "outlier": with_outlier,
    "one-sided": one_sided,
    "both": lambda: np.maximum(with_outlier(), -0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_choice_has_the_least_error_of_all_but_is_smoothed_only_where_it_is_worth_it(name: str) -> None:
    case = Case(CASES[name]())
    chosen = case.choose()
    weighed = {}
    for switches in ((False, False), (False, True), (True, False), (True, True)):
        site = case.choose(smoothing=switches[0], zero_points=switches[1])
        weighed[site] = case.error(site) / (0.9 if site.smoothing else 1)
    assert min(weighed, key=lambda site: weighed[site]) == chosen
    assert any(chosen.smoothing) == (name in {"outlier", "both"})
    assert (chosen.zero_point < -40) == (name in {"one-sided", "both"})
    assert case.error(chosen) <= case.error(SITE)


@pytest.mark.parametrize("name", CASES)
def test_the_error_is_that_of_the_definition(name: str) -> None:
    case = Case(CASES[name]())
    products = [torch.from_numpy(case.rows @ weight.T) for weight in case.weights]
    for site in (SITE, case.choose(zero_points=False), case.choose(smoothing=False), case.choose()):
        (amax,) = observed_ranges([site], [case.seen()]).mean(dim=0)
        found = product_error(site, amax, torch.from_numpy(case.rows), case.readers, products)
        assert float(found) == pytest.approx(case.error(site), rel=1e-3)


def test_a_layer_that_stays_float_loses_nothing_of_its_own() -> None:
    case = Case(drawn())
    products = [torch.from_numpy(case.rows @ case.weights[0].T)]
    reader = [Reader(case.readers[0].weight, None)]
    rows, amax = torch.from_numpy(case.rows), torch.tensor(float(np.abs(case.rows).max()))
    x = quant.fake_quantize(case.rows, quant.scale_from_amax(float(amax)), qmin=-128, qmax=127).astype(np.float64)
    expected = ((x - case.rows) @ case.weights[0].T.astype(np.float64)) ** 2
    assert float(product_error(SITE, amax, rows, reader, products)) == pytest.approx(expected.sum(), rel=1e-3)


def test_processes_that_share_the_rows_choose_as_one_that_has_them_all() -> None:
    case = Case(CASES["both"]())
    sums: list[torch.Tensor] = []
    first, second = np.array_split(case.rows, 2)
    case.choose(first, take_sum=lambda errors: sums.append(errors.clone()))
    together: list[torch.Tensor] = []

    def add(errors: torch.Tensor) -> None:
        errors += sums[0]
        together.append(errors.clone())

    assert case.choose(second, take_sum=add) == case.choose()
    alone: list[torch.Tensor] = []
    case.choose(take_sum=lambda errors: alone.append(errors.clone()))
    torch.testing.assert_close(together[0], alone[0], rtol=1e-4, atol=0)


def test_exponents_are_those_that_any_process_would_take() -> None:
    case = Case(with_outlier())

    def of_another_process(exponents: torch.Tensor) -> None:
        exponents.zero_()
        exponents[7] = 6

    assert case.choose(take_largest=of_another_process).smoothing == (*[0] * 7, 6, *[0] * 56)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(4, 32))
def test_a_sample_is_every_nth_row_and_no_more_than_allowed(sizes: list[int], limit: int) -> None:
    sample, n_rows = RowSample(limit), sum(sizes)
    numbers = torch.arange(n_rows, dtype=torch.float32)[:, None]
    for rows in torch.split(numbers, sizes):
        sample.add(rows)
    kept = sample.rows().flatten().tolist()
    assert len(kept) <= limit
    assert len(kept) >= min(n_rows, limit // 2)
    strides = {b - a for a, b in pairwise(kept)}
    assert len(strides) <= 1
    assert kept[:1] == [0.0][: len(kept)]
    assert not strides or n_rows - kept[-1] <= max(strides)
