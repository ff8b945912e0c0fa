"""A float model and rows without labels → the same model with grids: ranges, smoothing, scales of weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.text.batching import sorted_batches
from q8bert.training.quantization.calibration import calibrate
from q8bert.training.quantization.config import QuantizationConfig
from q8bert.training.quantization.sites import find_sites, matching_layers
from q8bert.training.quantization.weights import grids_of, prepare_weights

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
    options: QuantizationConfig,
    seed: int,
    rows_per_observation: int = ROWS_PER_OBSERVATION,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> ModelToExport:
    """Give a float model its grids.

    Args:
        model: The float model.
        rows: What its activations are observed on.
        options: What is quantized, and on which grids. Ranges are means of observations (``ema``, all alike) or
            percentiles; what only training has is not read.
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
    float_layers = matching_layers(network, options.keep_float)
    quantized = grids_of(network, options, float_layers=float_layers)
    sites, ranges = calibrate(
        network,
        find_sites(network, keep_float=float_layers),
        _observations(rows, rows_per_observation, seed, show_progress),
        decay=_DECAY,
        smoothing=options.smoothing,
        zero_points=options.zero_points,
        percentile=options.percentile,
        quantized=quantized,
    )
    return replace(
        model,
        sites=sites,
        amax=ranges.amax(),
        weights=prepare_weights(network, quantized, sites),
        granularity=options.granularity,  # whatever the options of a float run say
        table_granularity=options.table_granularity,
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
