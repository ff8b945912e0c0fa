"""Which sites are smoothed, and the first ranges: from float batches, before anything is quantized."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from q8bert.training.quantization.ranges import RangeState, refuse_infinite
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.smoothing import smooth, smoothed_amax

__all__ = ["calibrate", "channel_amax"]


def calibrate(
    model: nn.Module,
    sites: Sequence[Site],
    observations: Iterable[Iterable[Mapping[str, Tensor]]],
    *,
    decay: float,
    smoothing: bool,
    take_largest: Callable[[Tensor], None] = lambda _: None,
) -> tuple[tuple[Site, ...], RangeState]:
    """Observe float batches before anything is quantized, so that the first ranges mean something.

    Ranges seen through other, still meaningless ranges would be wrong in every deeper layer.

    Args:
        model: The float classifier.
        sites: Where activations are quantized; none is smoothed.
        observations: Inputs of the forward passes whose largest values make one observation, for each observation; in
            training, those of one step. Int64 ``(batch, seq)`` by name, on any device.
        decay: Decay of the moving average.
        smoothing: Whether outlier channels are smoothed.
        take_largest: Replaces a tensor by its elementwise maximum over all processes that share the work.

    Returns:
        The sites with their smoothing, and the ranges of what is left after it, on the CPU; the same on every process.

    Raises:
        CalibrationError: If an activation is not finite.
    """
    device = next(model.parameters()).device
    model.eval()
    observed = []
    for passes in observations:
        inputs = ({name: x.to(device) for name, x in given.items()} for given in passes)
        observed.append(_largest_of_all(model, sites, inputs, take_largest))
    if smoothing:
        sites = smooth(sites, [torch.stack(batches).amax(dim=0) for batches in zip(*observed, strict=True)])
    state = RangeState.empty(len(sites), decay=decay)
    for channels in observed:
        observed_amax = smoothed_amax(sites, channels)
        refuse_infinite(observed_amax)
        state = state.observe(observed_amax)
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
    largest: dict[str, Tensor] = {}
    mask = inputs["attention_mask"].bool()

    def hook(site: Site) -> torch.utils.hooks.RemovableHandle:
        def observe(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if x.dim() == 3:  # a two-dimensional one has one row a text and no padding
                x = x[:, 0] if site.first_token_only else x[mask]
            largest[site.name] = x.abs().amax(dim=0)

        return model.get_submodule(site.linears[0]).register_forward_pre_hook(observe)

    handles = [hook(site) for site in sites]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [largest[site.name] for site in sites]


def _largest_of_all(
    model: nn.Module,
    sites: Sequence[Site],
    passes: Iterable[Mapping[str, Tensor]],
    take_largest: Callable[[Tensor], None],
) -> list[Tensor]:
    """Return the largest values of one step's rows, which several forward passes and processes share."""
    weights = (model.get_parameter(f"{site.linears[0]}.weight") for site in sites)
    largest = [torch.zeros(weight.shape[1], device=weight.device) for weight in weights]
    for inputs in passes:
        largest = [torch.maximum(*pair) for pair in zip(largest, channel_amax(model, sites, inputs), strict=True)]
    for amax in largest:
        take_largest(amax)
    return [amax.cpu() for amax in largest]
