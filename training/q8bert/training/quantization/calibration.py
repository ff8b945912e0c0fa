"""Which sites are smoothed and shifted, and the first ranges: from float batches, before anything is quantized."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.grid_choice import Reader, choose_grid, observed_ranges
from q8bert.training.quantization.ranges import RangeState, refuse_infinite
from q8bert.training.quantization.seen_site import RowSample, SeenSite, visit_rows
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import quantized_parameters

__all__ = ["calibrate", "see_sites"]

N_ROWS = 1024  # of a site, on which errors are measured; MiniLM-L6: 80 MB


def calibrate(
    model: nn.Module,
    sites: Sequence[Site],
    observations: Iterable[Iterable[Mapping[str, Tensor]]],
    *,
    decay: float,
    smoothing: bool,
    zero_points: bool = True,
    percentile: float | None = None,
    quantized: Mapping[str, WeightGrid] | None = None,
    take_largest: Callable[[Tensor], None] = lambda _: None,
    take_sum: Callable[[Tensor], None] = lambda _: None,
) -> tuple[tuple[Site, ...], RangeState]:
    """Observe float batches before anything is quantized, so that the first ranges mean something.

    Ranges seen through other, still meaningless ranges would be wrong in every deeper layer.

    Args:
        model: The float classifier.
        sites: Where activations are quantized; none is smoothed or shifted.
        observations: Inputs of the forward passes whose extremes make one observation, for each observation; in
            training, those of one step. Int64 ``(batch, seq)`` by name, on any device.
        decay: Decay of the moving average.
        smoothing: Whether outlier channels may be smoothed.
        zero_points: Whether activations that lie to one side may have zero points.
        percentile: As in :func:`~q8bert.training.quantization.grid_choice.observed_ranges`.
        quantized: Names of quantized weights → their grid; by default that of
            :func:`~q8bert.training.quantization.weights.quantized_parameters`, an output channel a scale.
        take_largest: Replaces a tensor by its elementwise maximum over all processes that share the work.
        take_sum: Replaces a tensor by its sum over all of them.

    Returns:
        The sites with smoothing and zero points, and the ranges that they have then, on the CPU; the same on every
        process.

    Raises:
        CalibrationError: If an activation is not finite.
    """
    grids = quantized_parameters(model, per_channel=True) if quantized is None else quantized
    seen = see_sites(model, sites, observations, take_largest=take_largest)
    refuse_infinite(observed_ranges(sites, seen).amax(dim=0))
    chosen = []
    for site, of_site in zip(sites, seen, strict=True):
        names = [f"{linear}.weight" for linear in site.linears]
        chosen.append(
            choose_grid(
                site,
                of_site,
                [Reader(model.get_parameter(name).detach(), grids.get(name)) for name in names],
                decay=decay,
                smoothing=smoothing,
                zero_points=zero_points,
                percentile=percentile,
                take_largest=take_largest,
                take_sum=take_sum,
            )
        )
    observed = observed_ranges(chosen, seen, percentile=percentile, take_sum=take_sum)
    return tuple(chosen), RangeState.of(observed, decay=decay)


def see_sites(
    model: nn.Module,
    sites: Sequence[Site],
    observations: Iterable[Iterable[Mapping[str, Tensor]]],
    *,
    n_rows: int = N_ROWS,
    take_largest: Callable[[Tensor], None] = lambda _: None,
) -> list[SeenSite]:
    """Run a float model, and return what there is to see of its activations.

    Args:
        model: The float classifier; put into evaluation mode.
        sites: Where to look.
        observations: As in :func:`calibrate`.
        n_rows: Most rows of a site that are kept.
        take_largest: As in :func:`calibrate`.

    Returns:
        One a site; extremes are those of all processes, rows are this one's.
    """
    weights = [model.get_parameter(f"{site.linears[0]}.weight") for site in sites]
    samples = [RowSample(n_rows) for _ in sites]
    seen_extremes: list[list[Tensor]] = [[] for _ in sites]
    model.eval()
    for passes in observations:
        # of each channel, how far it goes below 0 and above
        extremes = [torch.zeros(2, weight.shape[1], device=weight.device) for weight in weights]

        def look(index: int, rows: Tensor, extremes: list[Tensor] = extremes) -> None:
            here = torch.stack([-rows.amin(dim=0), rows.amax(dim=0)])
            extremes[index] = torch.maximum(extremes[index], here)
            samples[index].add(rows)

        for inputs in passes:
            visit_rows(model, sites, {name: x.to(weights[0].device) for name, x in inputs.items()}, look)
        for of_observation, of_site in zip(extremes, seen_extremes, strict=True):
            take_largest(of_observation)
            of_site.append(of_observation.cpu())
    return [
        SeenSite(-torch.stack(found)[:, 0], torch.stack(found)[:, 1], sample.rows())
        for found, sample in zip(seen_extremes, samples, strict=True)
    ]
