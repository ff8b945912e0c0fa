"""The units of scores: a model learns them with mean 0 and standard deviation 1, whatever units the user's are in.

Left as they are, scores of 0 to 100 would have another loss, other gradients to be clipped, and a head that has far to
go at the same learning rate; with standardized ones, any affine change of all scores gives the same training. The
weights of a checkpoint belong to standardized scores; whatever leaves training (metrics, the exported graph) is in the
user's units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from q8bert.spec.decode import decode
from q8bert.spec.errors import ConfigError, InputError

__all__ = ["TARGET_SCALE_KEY", "UNSCALED", "TargetScale", "read_target_scale", "write_target_scale"]

# in config.json
TARGET_SCALE_KEY = "target_scale"
# float32 holds these with room on both sides
_MIN_STD, _MAX_STD = 1e-30, 1e30
# what rounding to float32 may move a score by, in standard deviations
_MAX_ROUNDING = 0.01


@dataclass(frozen=True)
class TargetScale:
    """A score in the user's units is ``mean + std · output``.

    Attributes:
        mean: Mean of the training rows' scores, in the user's units.
        std: Their standard deviation.
    """

    mean: float
    std: float

    @classmethod
    def of_scores(cls, scores: Sequence[float], *, source: str) -> "TargetScale":
        """Return the scale that standardizes some scores.

        Args:
            scores: Those of all training rows, in the user's units.
            source: Where they came from, for messages.

        Returns:
            Their mean and their standard deviation (of all rows, not an estimate from a sample).

        Raises:
            InputError: If they do not differ from one another, or by sizes that float32 cannot hold.
        """
        values = np.asarray(scores, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        if low == high:
            what = f"all {len(values)} scores are {low:g}" if len(values) > 1 else "there is one score alone"
            raise InputError(f"{source}: {what}. Regression is learned from scores that differ")
        with np.errstate(over="ignore", invalid="ignore"):
            scale = cls(float(values.mean()), float(values.std()))
        if not _MIN_STD <= scale.std <= _MAX_STD:
            raise InputError(
                f"{source}: the scores, from {low:g} to {high:g}, are of a size that float32 cannot hold. Multiply all "
                "of them by a constant"
            )
        if scale.rounding > _MAX_ROUNDING * scale.std:
            raise InputError(
                f"{source}: the scores differ too little from their mean, {scale.mean:.9g}, to be told apart in "
                f"float32: their standard deviation is {scale.std:.3g}. Subtract a constant from all of them"
            )
        return scale

    @property
    def rounding(self) -> float:
        """What a score near the mean may move by when it is rounded to float32, in the user's units."""
        return abs(self.mean) * float(np.finfo(np.float32).eps) / 2

    def standardize(self, scores: Tensor) -> Tensor:
        """Return scores as a model learns them.

        Args:
            scores: Float64, in the user's units.

        Returns:
            Float32 of the same shape. Of scores that were changed by a constant factor and a constant term, the same to
            the rounding of float64, so that hardly one in a million falls to another float32.
        """
        return ((scores.double() - self.mean) / self.std).float()

    def restore(self, outputs: Tensor) -> Tensor:
        """Return a model's outputs in the user's units.

        Args:
            outputs: As the model computes them; float32 is scaled by the two operations of the exported graph.

        Returns:
            The same shape and type.
        """
        return outputs * self.std + self.mean


# scores and logits as they are
UNSCALED = TargetScale(mean=0.0, std=1.0)


def read_target_scale(config: Mapping[str, object]) -> TargetScale:
    """Return the units that a model's scores have.

    Args:
        config: Hugging Face's configuration, as ``config.json`` holds it.

    Returns:
        What :func:`write_target_scale` wrote there; :data:`UNSCALED` where nothing did.

    Raises:
        ConfigError: If it is no scale.
    """
    content = config.get(TARGET_SCALE_KEY)
    if content is None:
        return UNSCALED
    if not isinstance(content, Mapping):
        raise ConfigError([f"{TARGET_SCALE_KEY} must be an object with mean and std, got {content!r}"])
    scale = decode(TargetScale, content)
    if not _MIN_STD <= scale.std <= _MAX_STD:
        raise ConfigError([f"{TARGET_SCALE_KEY}: std must be between {_MIN_STD:g} and {_MAX_STD:g}, got {scale.std!r}"])
    return scale


def write_target_scale(config: object, scale: TargetScale) -> None:
    """Let a configuration say what units a model's scores have; of :data:`UNSCALED` it says nothing.

    Args:
        config: Hugging Face's configuration; changed in place.
        scale: The units.
    """
    if scale != UNSCALED:
        setattr(config, TARGET_SCALE_KEY, asdict(scale))
    elif hasattr(config, TARGET_SCALE_KEY):
        delattr(config, TARGET_SCALE_KEY)
