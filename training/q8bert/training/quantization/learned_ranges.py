"""Activation ranges that are trained with the weights: learned step size quantization.

With ``scale = amax / 127`` and the codes of :mod:`~q8bert.training.quantization.fake_quantize`, the loss has a gradient
with respect to the scale too, by the same straight-through estimator,

    ∂y/∂scale = round(x / scale) − x / scale    where the code was not clamped,
    ∂y/∂scale = −128 − zero_point, or 127 − zero_point    where it was,

so a range grows where clamping costs more than rounding, and shrinks where it costs less. Engines give it per site,
summed and multiplied by :func:`step_size_factor`. Padded tokens add nothing, for no loss depends on them.

The logarithm of the range is learned. So a range is positive by construction, and a step of AdamW, which is about as
long as the rate whatever the gradient, moves wide and narrow ranges by the same share of their width. There is no
weight decay, which would pull ranges to 1, and no clipping: gradients of ranges neither count in the norm to which
those of weights are clipped nor shrink with them.

References:
    Esser et al. 2020, "Learned Step Size Quantization", https://arxiv.org/abs/1902.08153. Jain et al. 2020, "Trained
    Quantization Thresholds", https://arxiv.org/abs/1903.08066: why the logarithm.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from q8bert.spec.quant import ACTIVATION_QMAX, MIN_AMAX
from q8bert.training.quantization.ranges import RangeState

__all__ = ["LearnedRanges", "Ranges", "ranges_from_tensors", "step_size_factor"]

# The betas are those of the weights. Gradients are smaller than theirs by the factor, down to 1e-10 and less in a small
# model, where an epsilon of 1e-8 would leave most ranges as they are.
_BETAS, _EPSILON = (0.9, 0.999), 1e-12


def step_size_factor(n_features: int) -> float:
    """Return what the gradient of a scale is multiplied by, ``1 / sqrt(n_features · 127)``.

    Args:
        n_features: Width of the activation. As in the paper, tokens and rows are not counted, so that gradients of
            several passes and processes add up to that of one.

    Returns:
        The factor. Adam divides it out again; it keeps gradients of wide layers near those of narrow ones.
    """
    return 1.0 / math.sqrt(n_features * ACTIVATION_QMAX)


@dataclass(frozen=True)
class LearnedRanges:
    """Ranges and what Adam remembers of them; a value, a step returns a new one.

    Attributes:
        log_amax: Natural logarithm of each range in real units, float64 ``(n_sites,)``, on the device of the weights.
        exp_avg: Adam's mean of the gradients, of the same shape and type.
        exp_avg_sq: Adam's mean of their squares, likewise.
        count: Steps taken.
    """

    log_amax: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    count: int

    @property
    def n_sites(self) -> int:
        """How many activations have one."""
        return len(self.log_amax)

    @staticmethod
    def starting_at(amax: Tensor) -> "LearnedRanges":
        """Return the state before the first step.

        Args:
            amax: Float32 ``(n_sites,)``, ranges that calibration observed; above 0.

        Returns:
            The state.
        """
        log_amax = amax.double().log()
        return LearnedRanges(log_amax, torch.zeros_like(log_amax), torch.zeros_like(log_amax), 0)

    def descend(self, gradient: Tensor, *, rate: float) -> "LearnedRanges":
        """Return the state after a step of AdamW without weight decay.

        Args:
            gradient: Float32 ``(n_sites,)``, of the loss with respect to the ranges (not their logarithms); finite.
            rate: Learning rate: about the largest share of its width by which a range moves.

        Returns:
            The new state.
        """
        log_amax, exp_avg, exp_avg_sq = self.log_amax.clone(), self.exp_avg.clone(), self.exp_avg_sq.clone()
        adam(
            [log_amax],
            [gradient.double() * log_amax.exp()],
            [exp_avg],
            [exp_avg_sq],
            [],
            [torch.tensor(float(self.count))],
            foreach=False,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=rate,
            weight_decay=0.0,
            eps=_EPSILON,
            maximize=False,
        )
        return LearnedRanges(log_amax, exp_avg, exp_avg_sq, self.count + 1)

    def to(self, device: torch.device) -> "LearnedRanges":
        """Return the same state on a device."""
        log_amax, exp_avg, exp_avg_sq = (value.to(device) for value in (self.log_amax, self.exp_avg, self.exp_avg_sq))
        return LearnedRanges(log_amax, exp_avg, exp_avg_sq, self.count)

    def amax(self) -> Tensor:
        """Return the range of each site, real units, float32 ``(n_sites,)``, above 0."""
        return self.log_amax.exp().clamp(min=MIN_AMAX).float()

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept of it in a checkpoint, by name, beside :attr:`count`."""
        return {"log_amax": self.log_amax, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}


Ranges = RangeState | LearnedRanges


def ranges_from_tensors(tensors: Mapping[str, Tensor], *, count: int, decay: float) -> Ranges | None:
    """Return the ranges that a checkpoint has.

    Args:
        tensors: What their ``tensors()`` gave.
        count: Observations or steps.
        decay: Decay of the moving average; learned ranges have none.

    Returns:
        The ranges; None if these are the tensors of no ranges.
    """
    are_whole = all(value.dtype == torch.float64 and value.ndim == 1 for value in tensors.values())
    if not are_whole or not all(value.isfinite().all() for value in tensors.values()):
        return None
    if set(tensors) == {"average"}:
        return RangeState(tensors["average"], count, decay)
    if set(tensors) == {"log_amax", "exp_avg", "exp_avg_sq"} and len(set(map(len, tensors.values()))) == 1:
        return LearnedRanges(**tensors, count=count)
    return None
