"""A float model and rows without labels → the same model with grids: ranges, smoothing, scales of weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.text.batching import sorted_batches
from q8bert.training.quantization.calibration import calibrate
from q8bert.training.quantization.sites import find_sites, matching_layers
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters

__all__ = ["calibrated"]

# Rows whose largest value is one observation; the range is the mean of all observations.
ROWS_PER_OBSERVATION = 16
# all observations weigh alike to a millionth of their number
_DECAY = 1 - 2**-20
_ROWS_PER_PASS = 16


def calibrated(
    model: ModelToExport,
    rows: EncodedRows,
    *,
    granularity: str,
    smoothing: bool,
    zero_points: bool = True,
    keep_float: Sequence[str],
    seed: int,
    rows_per_observation: int = ROWS_PER_OBSERVATION,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> ModelToExport:
    """Give a float model its grids.

    Args:
        model: The float model.
        rows: What its activations are observed on.
        granularity: ``per_channel`` or ``per_tensor``, of the scales of Linear weights.
        smoothing: Whether outlier channels are smoothed.
        zero_points: Whether activations that lie to one side have zero points.
        keep_float: Patterns of layers that stay float.
        seed: Of the order in which rows make observations.
        rows_per_observation: Rows whose largest value is one observation.
        show_progress: Called with rows observed and rows in all.

    Returns:
        The model with sites, ranges and quantized weights.

    Raises:
        CalibrationError: If an activation is not finite.
        ModelError: If a layer cannot be quantized, or a pattern matches none.
    """
    network = model.source.model
    float_layers = matching_layers(network, keep_float)
    quantized = quantized_parameters(
        network, per_channel=granularity == "per_channel", per_column=True, keep_float=float_layers
    )
    sites, ranges = calibrate(
        network,
        find_sites(network, keep_float=float_layers),
        _observations(rows, rows_per_observation, seed, show_progress),
        decay=_DECAY,
        smoothing=smoothing,
        zero_points=zero_points,
        quantized=quantized,
    )
    return replace(
        model,
        sites=sites,
        amax=ranges.amax(),
        weights=prepare_weights(network, quantized, sites),
        granularity=granularity,
        table_granularity="per_column",  # whatever the options of a float run say
        float_layers=float_layers,
    )


def _observations(
    rows: EncodedRows, size: int, seed: int, show_progress: Callable[[int, int], None]
) -> Iterator[Iterator[Mapping[str, Tensor]]]:
    """Yield the forward passes of each observation: random rows, so that observations are alike."""
    order = np.random.default_rng(seed).permutation(len(rows))
    for start in range(0, len(rows), size):
        numbers = order[start : start + size]
        passes = sorted_batches(rows.encoded.lengths[numbers], _ROWS_PER_PASS)
        yield (rows.inputs(numbers[part]) for part in passes)
        show_progress(min(start + size, len(rows)), len(rows))
