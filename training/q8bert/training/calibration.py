"""Which sites are smoothed, and the first ranges: from float batches, before anything is quantized."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from q8bert.training.batches import TokenizedSplit, shared_out
from q8bert.training.processes import Processes
from q8bert.training.ranges import RangeState
from q8bert.training.sites import Site
from q8bert.training.smoothing import smooth, smoothed_amax

__all__ = ["calibrate", "channel_amax"]


def calibrate(
    model: nn.Module,
    sites: Sequence[Site],
    split: TokenizedSplit,
    *,
    rows_per_step: int,
    batch_size: int,
    n_batches: int,
    seed: int,
    decay: float,
    smoothing: bool,
    processes: Processes,
) -> tuple[tuple[Site, ...], RangeState]:
    """Observe float batches before anything is quantized, so that the first ranges mean something.

    Ranges seen through other, still meaningless ranges would be wrong in every deeper layer.

    Args:
        model: The float classifier.
        sites: Where activations are quantized; none is smoothed.
        split: Training rows.
        rows_per_step: Rows whose largest values make one observation, as in training.
        batch_size: Rows a forward pass.
        n_batches: Observations; fewer when an epoch has fewer steps.
        seed: Seed of the run.
        decay: Decay of the moving average.
        smoothing: Whether outlier channels are smoothed.
        processes: Those that share the work.

    Returns:
        The sites with their smoothing, and the ranges of what is left after it; the same on every process.
    """
    device = next(model.parameters()).device
    model.eval()
    observed = []
    n_batches = min(n_batches, split.steps_per_epoch(rows_per_step))
    for rows in itertools.islice(split.training_steps(rows_per_step, seed=seed, start=0), n_batches):
        parts = shared_out(rows, batch_size, rank=processes.rank, n_processes=processes.count)
        inputs = ({name: x.to(device) for name, x in split.batch(part).inputs.items()} for part in parts)
        observed.append(_largest_of_all(model, sites, inputs, processes))
    if smoothing:
        sites = smooth(sites, [torch.stack(batches).amax(dim=0) for batches in zip(*observed, strict=True)])
    state = RangeState.empty(len(sites), decay=decay)
    for channels in observed:
        state = state.observe(smoothed_amax(sites, channels))
    return tuple(sites), state


def channel_amax(model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Run a float model and return the largest absolute value of each channel at each site, padding left out.

    Args:
        model: Float classifier in evaluation mode.
        sites: Where to look.
        inputs: Int64 ``(batch, seq)`` by name; ``attention_mask`` among them.

    Returns:
        Float32 ``(features,)`` of each site, real units.
    """
    found: dict[str, Tensor] = {}
    mask = inputs["attention_mask"].bool()

    def hook(site: Site) -> torch.utils.hooks.RemovableHandle:
        def observe(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            # a two-dimensional x has one row a text and no padding
            x = args[0][mask] if args[0].dim() == 3 else args[0]
            found[site.name] = x.abs().amax(dim=0)

        return model.get_submodule(site.linears[0]).register_forward_pre_hook(observe)

    handles = [hook(site) for site in sites]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [found[site.name] for site in sites]


def _largest_of_all(
    model: nn.Module, sites: Sequence[Site], parts: Iterator[Mapping[str, Tensor]], processes: Processes
) -> list[Tensor]:
    """Return the largest values of one step's rows, which several forward passes and processes share."""
    weights = (model.get_parameter(f"{site.linears[0]}.weight") for site in sites)
    largest = [torch.zeros(weight.shape[1], device=weight.device) for weight in weights]
    for inputs in parts:
        largest = [torch.maximum(*pair) for pair in zip(largest, channel_amax(model, sites, inputs), strict=True)]
    for amax in largest:
        processes.max_(amax)
    return [amax.cpu() for amax in largest]
