"""Observed activation ranges: a bias-corrected moving average of the largest absolute value.

Each optimizer step observes at every site the range that its values need, padding left out (``max |x|`` where the zero
point is 0), and the average

    m ← decay · m + (1 − decay) · observed,    amax = m / (1 − decay^count)

follows. Q8BERT (section 3) starts its average at the first batch's value and uses decay 0.9999, so that one batch
sets the range for thousands of steps; dividing by ``1 − decay^count``, as Adam does, weighs the first observations
alike. The state is a value: an update returns a new one.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from q8bert.spec.errors import CalibrationError
from q8bert.spec.quant import MIN_AMAX

__all__ = ["RangeState", "refuse_infinite"]


@dataclass(frozen=True)
class RangeState:
    """Moving averages of all sites.

    Attributes:
        average: Uncorrected average of ``max |x|``, float64 ``(n_sites,)``; zeros before any observation.
            It stays on its device, so that nothing waits for it.
        count: Observations so far.
        decay: Weight of the past, in [0, 1).
    """

    average: Tensor
    count: int
    decay: float

    @property
    def n_sites(self) -> int:
        """How many activations have one."""
        return len(self.average)

    @staticmethod
    def empty(n_sites: int, *, decay: float) -> "RangeState":
        """Return the state before any observation."""
        return RangeState(torch.zeros(n_sites, dtype=torch.float64), 0, decay)

    @staticmethod
    def of(observations: Tensor, *, decay: float) -> "RangeState":
        """Return the state after observations, float32 ``(n_observations, n_sites)``."""
        state = RangeState.empty(observations.shape[1], decay=decay)
        for observed in observations:
            state = state.observe(observed)
        return state

    @staticmethod
    def holding(amax: Tensor, *, count: int, decay: float) -> "RangeState":
        """Return the state that has given ranges, as after some observations of just these.

        Args:
            amax: Float32 ``(n_sites,)``, real units, above 0.
            count: Observations that they stand for; at least 1.
            decay: Weight of the past.

        Returns:
            The state.
        """
        return RangeState(amax.double() * (1 - decay**count), count, decay)

    def observe(self, observations: Tensor) -> "RangeState":
        """Return the state after one more observation.

        Args:
            observations: Float32 ``(n_sites,)``, ``max |x|`` of one batch, real units, on the device of the average;
                finite, see :func:`refuse_infinite`.

        Returns:
            The new state.
        """
        average = self.decay * self.average + (1 - self.decay) * observations.double()
        return replace(self, average=average, count=self.count + 1)

    def to(self, device: torch.device) -> "RangeState":
        """Return the same state on a device."""
        return replace(self, average=self.average.to(device))

    def amax(self) -> Tensor:
        """Return the learned range of each site, real units.

        Returns:
            Float32 ``(n_sites,)``, never zero.

        Raises:
            CalibrationError: If nothing was observed yet.
        """
        if self.count == 0:
            raise CalibrationError("ranges were asked for before any batch was observed")
        corrected = self.average / (1 - self.decay**self.count)
        return corrected.clamp(min=MIN_AMAX).float()

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept of it in a checkpoint, by name, beside :attr:`count` and :attr:`decay`."""
        return {"average": self.average}


def refuse_infinite(observations: Tensor) -> None:
    """Check that observations are finite.

    Args:
        observations: Float32 ``(n_sites,)``, ``max |x|`` of one batch.

    Raises:
        CalibrationError: If one is not: the model has diverged.
    """
    sites = torch.nonzero(~torch.isfinite(observations)).flatten().tolist()
    if sites:
        raise CalibrationError(
            f"activations at sites {sites} are not finite: training has diverged. Lower the learning rate"
        )
