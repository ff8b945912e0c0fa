"""What quantization without training can be told: the grids of training, and the ranges that need none."""

from typing import Any

from q8bert.spec.errors import ConfigError
from q8bert.training.quantization.config import QuantizationConfig

__all__ = ["ONE_SHOT_RANGES", "one_shot_options"]

ONE_SHOT_RANGES = ("mean", "percentile")


def one_shot_options(
    *, ranges: str = "mean", range_percentile: float | None = None, **grids: Any
) -> QuantizationConfig:
    """Return the options of training that mean the same for a model that is not trained.

    Args:
        ranges: ``mean`` or ``percentile``.
        range_percentile: As in training; None for its default.
        **grids: ``granularity``, ``table_granularity``, ``smoothing``, ``zero_points``, ``keep_float``.

    Returns:
        The options. A mean is a moving average all of whose observations weigh alike.

    Raises:
        ConfigError: If values do not fit.
    """
    if ranges != "percentile" and range_percentile is not None:
        raise ConfigError([f"range_percentile ({range_percentile}) is of ranges percentile, got {ranges}"])
    return QuantizationConfig(
        ranges="ema" if ranges == "mean" else ranges,
        range_percentile=QuantizationConfig.range_percentile if range_percentile is None else range_percentile,
        **grids,
    )
