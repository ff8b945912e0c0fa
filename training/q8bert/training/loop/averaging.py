"""The mean of the weights over the last steps of a run, in place of those that the last step left.

Near the end of training, weights wander about a minimum; their mean lies nearer to it than most of them (Izmailov et
al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization", https://arxiv.org/abs/1803.05407). After
step ``k`` of those that are averaged ``mean ← mean + (weight − mean) / k``, in float32, on the masters: what is
quantized in the end is the mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from q8bert.training.loop.schedule import Schedule

__all__ = ["WeightAverage"]


@dataclass(frozen=True)
class WeightAverage:
    """The mean so far; its tensors change in place, as weights do.

    Attributes:
        means: Float32 tensors by parameter name, beside the weights; zeros before the first of the averaged steps.
    """

    means: Mapping[str, Tensor]

    @classmethod
    def of(cls, masters: Mapping[str, Tensor]) -> "WeightAverage":
        """Return the mean of no weights yet."""
        return cls({name: torch.zeros_like(master, requires_grad=False) for name, master in masters.items()})

    @torch.no_grad()
    def take(self, masters: Mapping[str, Tensor], schedule: Schedule, *, step: int) -> bool:
        """Take the weights as they are after a step into the mean, and give them the mean after the last one.

        Args:
            masters: The weights, by the names of the means.
            schedule: Says which steps are averaged.
            step: Steps done so far.

        Returns:
            Whether the weights have become the mean.
        """
        if schedule.average_from is None or not schedule.is_averaged(step):
            return False
        for name, mean in self.means.items():
            mean.lerp_(masters[name], 1 / (step - schedule.average_from))
        if step < schedule.n_steps:
            return False
        for name, mean in self.means.items():
            masters[name].copy_(mean)
        return True
