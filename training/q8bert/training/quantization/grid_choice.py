"""Which smoothing and which zero point a site gets: those with which the products of its readers differ least.

For each combination of some exponents (:mod:`~q8bert.training.quantization.smoothing`) and two zero points, 0 and the
one that fits, the error is measured that quantization makes in what the site's readers compute, on rows that
calibration saw:

    E = Σ_readers Σ_rows ‖q(x / s) q(W · s)ᵀ − x Wᵀ‖²

Both factors are rounded on the grids that they will have, so what smoothing costs the weights is counted where it is
paid. Zero points cost nothing at inference; a smoothed site has one product more, which it must be worth.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from q8bert.training.quantization.fake_quantize import (
    WeightGrid,
    fake_quantize,
    fake_quantize_weight_,
    scale_from_amax,
)
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.seen_site import SeenSite
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.smoothing import exponent_candidates
from q8bert.training.quantization.zero_points import covering_amax, fitting_zero_point

__all__ = ["Reader", "choose_grid", "observed_ranges", "product_error"]

_WORTH_SMOOTHING = 0.9  # of the error without; smoothed no more than that must be left

Reduce = Callable[[Tensor], None]


@dataclass(frozen=True)
class Reader:
    """A Linear that reads a site.

    Attributes:
        weight: Float32 ``(out_features, in_features)``.
        grid: How it is rounded; None for one that stays float.
    """

    weight: Tensor
    grid: WeightGrid | None


def choose_grid(
    site: Site,
    seen: SeenSite,
    readers: Sequence[Reader],
    *,
    decay: float,
    smoothing: bool,
    zero_points: bool,
    percentile: float | None = None,
    take_largest: Reduce = lambda _: None,
    take_sum: Reduce = lambda _: None,
) -> Site:
    """Decide how a site is smoothed, and its zero point.

    Args:
        site: Neither smoothed nor shifted.
        seen: What calibration saw of it; extremes are those of all processes, rows are this one's.
        readers: Its Linear layers.
        decay: Decay of the moving average that its range will be.
        smoothing: Whether it may be smoothed.
        zero_points: Whether it may have a zero point.
        percentile: As in :func:`observed_ranges`.
        take_largest: Replaces a tensor by its elementwise maximum over all processes that share the work.
        take_sum: Replaces a tensor by its sum over all of them.

    Returns:
        The site as it will be, the same on every process.
    """
    exponents: list[tuple[int, ...]] = [()]
    if smoothing:
        exponents += _candidates(seen, readers, take_largest)
    choices = []
    for found in exponents:
        smoothed = replace(site, smoothing=found)
        shifted = [_shifted(smoothed, _ends(smoothed, seen, percentile, take_sum))] if zero_points else []
        choices += [smoothed, *(choice for choice in shifted if choice.zero_point)]
    if len(choices) == 1:
        return choices[0]
    ranges = [
        RangeState.of(observed_ranges([choice], [seen], percentile=percentile, take_sum=take_sum), decay=decay).amax()
        for choice in choices
    ]
    products = [seen.rows @ reader.weight.t() for reader in readers]
    found_errors = [
        product_error(choice, amax[0], seen.rows, readers, products)
        for choice, amax in zip(choices, ranges, strict=True)
    ]
    errors = torch.stack(found_errors)
    take_sum(errors)
    weighed = [
        float(error) / (_WORTH_SMOOTHING if choice.smoothing else 1.0)
        for choice, error in zip(choices, errors, strict=True)
    ]
    return choices[weighed.index(min(weighed))]


def product_error(
    site: Site, amax: Tensor, rows: Tensor, readers: Sequence[Reader], products: Sequence[Tensor]
) -> Tensor:
    """Return the squared error that a site's grid makes in its readers' products.

    Args:
        site: With smoothing and zero point.
        amax: Its range, float32 scalar.
        rows: Float32 ``(n_rows, features)``, before smoothing.
        readers: Its Linear layers.
        products: What each computes in float without its bias, ``(n_rows, out_features)``.

    Returns:
        Float64 scalar, on the device of ``rows``.
    """
    x = rows / site.factors().to(rows.device) if site.smoothing else rows
    x = fake_quantize(
        x, scale_from_amax(amax.to(rows.device)), torch.tensor(float(site.zero_point), device=rows.device)
    )
    error = torch.zeros((), dtype=torch.float64, device=rows.device)
    for reader, product in zip(readers, products, strict=True):
        weight = reader.weight * site.factors().to(rows.device) if site.smoothing else reader.weight
        if reader.grid is not None:
            rounded = torch.empty_like(weight)
            fake_quantize_weight_(rounded, weight, reader.grid)
            weight = rounded
        error += (x @ weight.t() - product).square_().sum(dtype=torch.float64)
    return error


def observed_ranges(
    sites: Sequence[Site],
    seen: Sequence[SeenSite],
    *,
    percentile: float | None = None,
    take_sum: Reduce = lambda _: None,
) -> Tensor:
    """Return the ranges that sites need, smoothed and shifted as they are.

    Args:
        sites: With smoothing and zero points.
        seen: What was seen of each.
        percentile: Ranges are to reach from the ``100 − percentile``-th to this percentile of the values in the rows
            that were seen, by nearest rank, as one observation; values beyond are clamped. None: from the least to the
            greatest value of each observation.
        take_sum: Replaces a tensor by its sum over all processes that share the work; a percentile is the mean over
            them.

    Returns:
        Float32 ``(n_observations, n_sites)``, real units.
    """
    ranges = [
        covering_amax(*_ends(site, of_site, percentile, take_sum), site.zero_point)
        for site, of_site in zip(sites, seen, strict=True)
    ]
    return torch.stack(ranges, dim=1)


def _ends(site: Site, seen: SeenSite, percentile: float | None, take_sum: Reduce) -> tuple[Tensor, Tensor]:
    """Return how far below and above 0 a site's grid is to reach, float32 ``(n_observations,)`` each, on the CPU."""
    factors = site.factors() if site.smoothing else torch.ones(1)
    if percentile is None:
        return (seen.lowest / factors).amin(dim=1), (seen.highest / factors).amax(dim=1)
    values = (seen.rows / factors.to(seen.rows.device)).flatten()
    rank = max(1, math.ceil(percentile / 100 * len(values)))
    sides = [side.kthvalue(rank).values.clamp(min=0.0) for side in (-values, values)]
    told = torch.stack([*sides, torch.ones_like(sides[0])])
    take_sum(told)
    below, above, n_processes = told.cpu()
    return (-below / n_processes)[None], (above / n_processes)[None]


def _candidates(seen: SeenSite, readers: Sequence[Reader], take_largest: Reduce) -> list[tuple[int, ...]]:
    channel_amax = torch.maximum(-seen.lowest.amin(dim=0), seen.highest.amax(dim=0))
    weight_amax = torch.stack([reader.weight.abs().amax(dim=0) for reader in readers]).amax(dim=0).cpu()
    found = []
    for exponents in exponent_candidates(channel_amax, weight_amax):
        take_largest(exponents)  # logarithms may differ in their last digit between kinds of CPUs
        if exponents.any():
            found.append(tuple(exponents.tolist()))
    return list(dict.fromkeys(found))


def _shifted(site: Site, ends: tuple[Tensor, Tensor]) -> Site:
    lowest, highest = ends
    # a range is an average over observations, so the extremes that it is held against are too
    return replace(site, zero_point=fitting_zero_point(float(lowest.mean()), float(highest.mean())))
