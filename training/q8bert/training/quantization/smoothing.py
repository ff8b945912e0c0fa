"""Smoothing: outlier channels of an activation are scaled down before it is quantized, and their weights up.

A range is that of the largest channel, and BERT's are uneven: in MiniLM one channel out of the first layer's GELU
reaches 24 where the others stay below 6, so that all of them are rounded four times as coarsely as they need be. But

    x Wᵀ = (x / s) (W · s)ᵀ    for any s > 0, one an input channel,

and a weight has codes to spare. Powers of two, because scaling by them is exact: the float model stays what it was to
the bit, and so do its gradients (but for the order in which those of query, key and value are added).

Which ``s`` is best depends on how much the weights lose, so there are several to choose from by the error of the
product (:mod:`~q8bert.training.quantization.grid_choice`). With ``a`` the largest absolute value of each channel of the
activation, ``w`` that of each column of its readers' weights, and ``τ`` what 2 % of ``a`` exceed,

- *outliers*: ``s = 2 ** max(0, ⌈log₂(a / τ)⌉)``, so all but the outliers are left alone;
- *balanced*: ``s ∝ 2 ** round(log₂(a ** α / w ** (1 − α)))`` for some ``α``, with a median of 1.

References:
    Xiao et al. 2023, "SmoothQuant", arXiv 2211.10438, moves the difficulty from activations to weights this way, and
    has the second formula; Bondarenko et al. 2021, arXiv 2109.12948, on the outliers of BERT.
"""

import torch
from torch import Tensor

__all__ = ["exponent_candidates", "outlier_threshold"]

_OUTLIERS = 0.02
_ALPHAS = (0.5, 0.75)
_SMALLEST = 2.0**-24  # a channel that is always 0 has no logarithm
_LARGEST_EXPONENT = 12  # of a balanced channel: in float16, too, it keeps its digits


def exponent_candidates(channel_amax: Tensor, weight_amax: Tensor) -> list[Tensor]:
    """Return some ways to smooth an activation, as ``log₂ s`` of each channel.

    Args:
        channel_amax: Float32 ``(features,)``, largest absolute value of each channel, real units; finite.
        weight_amax: Float32 ``(features,)``, largest absolute weight that each channel is multiplied with.

    Returns:
        Int64 ``(features,)`` each; none where all channels are 0.
    """
    if not channel_amax.max() > 0:
        return []
    candidates = [_balanced(channel_amax, weight_amax, alpha) for alpha in _ALPHAS]
    threshold = outlier_threshold(channel_amax)
    if threshold > 0:
        candidates.insert(0, torch.log2(channel_amax / threshold).ceil().clamp(min=0).long())
    return candidates


def outlier_threshold(channel_amax: Tensor) -> Tensor:
    """Return τ, what 2 % of the channels exceed: a scalar in real units, of float32 ``(features,)``."""
    return channel_amax.sort(descending=True).values[int(_OUTLIERS * len(channel_amax))]


def _balanced(channel_amax: Tensor, weight_amax: Tensor, alpha: float) -> Tensor:
    of_channels, of_weights = (torch.log2(amax.clamp(min=_SMALLEST)) for amax in (channel_amax, weight_amax))
    exponents = torch.round(alpha * of_channels - (1 - alpha) * of_weights).long()
    return (exponents - exponents.median()).clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
