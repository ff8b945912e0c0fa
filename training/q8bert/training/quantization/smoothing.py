"""Smoothing: outlier channels of an activation are scaled down before it is quantized, and their weights up.

A range is that of the largest channel, and BERT's are uneven: in MiniLM one channel out of the first layer's GELU
reaches 24 where the others stay below 6, so that all of them are rounded four times as coarsely as they need be. But

    x Wᵀ = (x / s) (W · s)ᵀ    for any s > 0, one an input channel,

and a weight has codes to spare. With ``a`` the largest absolute value of each channel and ``τ`` that of the channel
which 2 % of them exceed,

    s = 2 ** max(0, ⌈log₂(a / τ)⌉),

so all but the outliers are left alone. Powers of two, because scaling by them is exact: the float model stays what it
was to the bit, and so do its gradients (but for the order in which those of query, key and value are added). A site
whose outliers are at most 4 τ gains little, and is left alone whole.

References:
    Xiao et al. 2023, "SmoothQuant", arXiv 2211.10438, moves the difficulty from activations to weights this way;
    Bondarenko et al. 2021, arXiv 2109.12948, on the outliers of BERT.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from q8bert.training.quantization.sites import Site

__all__ = ["outlier_threshold", "smooth", "smoothed_amax", "smoothing_exponents"]

_OUTLIERS = 0.02
_MIN_EXPONENT = 3  # of the largest channel; more than 4 τ


def smoothing_exponents(channel_amax: Tensor) -> tuple[int, ...]:
    """Return ``log₂ s`` of each channel.

    Args:
        channel_amax: Float32 ``(features,)``, largest absolute value of each channel, real units.

    Returns:
        One exponent >= 0 a channel; none at all where the activation needs no smoothing.
    """
    threshold = outlier_threshold(channel_amax)
    if not (threshold > 0 and torch.isfinite(channel_amax).all()):  # all else is dead, or the model has diverged
        return ()
    exponents = torch.log2(channel_amax / threshold).ceil().clamp(min=0)
    return tuple(int(exponent) for exponent in exponents) if exponents.max() >= _MIN_EXPONENT else ()


def outlier_threshold(channel_amax: Tensor) -> Tensor:
    """Return τ, what 2 % of the channels exceed: a scalar in real units, of float32 ``(features,)``."""
    return channel_amax.sort(descending=True).values[int(_OUTLIERS * len(channel_amax))]


def smooth(sites: Sequence[Site], channel_amax: Sequence[Tensor]) -> tuple[Site, ...]:
    """Decide which sites are smoothed, and by how much.

    Args:
        sites: Where activations are quantized.
        channel_amax: Float32 ``(features,)`` of each site, largest absolute value of each channel, real units.

    Returns:
        The same sites with their exponents.
    """
    pairs = zip(sites, channel_amax, strict=True)
    return tuple(replace(site, smoothing=smoothing_exponents(amax)) for site, amax in pairs)


def smoothed_amax(sites: Sequence[Site], channel_amax: Sequence[Tensor]) -> Tensor:
    """Return the largest absolute value at each site, smoothed as it is.

    Args:
        sites: Where activations are quantized.
        channel_amax: As in :func:`smooth`, before smoothing.

    Returns:
        Float32 ``(n_sites,)``, real units.
    """
    pairs = zip(sites, channel_amax, strict=True)
    return torch.stack([(amax / site.factors() if site.smoothing else amax).max() for site, amax in pairs])
