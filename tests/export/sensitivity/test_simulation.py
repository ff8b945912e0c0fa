"""A partly quantized model is what the engine of training computes of the same parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.post_training.calibration import calibrated
from q8bert.export.sensitivity.simulation import PartlyQuantized, simulate
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.objectives.objective import objective_of
from q8bert.training.quantization.config import QuantizationConfig
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters

Quantized = tuple[ModelToExport, EncodedRows]


def engine_logits(model: ModelToExport, rows: EncodedRows) -> np.ndarray:
    engine = TorchEngine(model.source.model, model.sites, model.weights, objective_of(model.task.head))
    logits = np.zeros((len(rows), 2), dtype=np.float32)
    for numbers, inputs in rows.batches(16):
        logits[numbers] = engine.outputs(inputs, model.amax)["logits"].numpy()
    return logits


def test_with_all_parts_it_is_the_model_of_training_and_with_none_the_float_one(quantized: Quantized) -> None:
    model, rows = quantized
    whole = simulate(model, PartlyQuantized.whole(model), rows, batch_size=16)
    np.testing.assert_array_equal(whole, engine_logits(model, rows))
    floats = replace(model, sites=(), amax=None, weights=prepare_weights(model.source.model, {}, ()))
    nothing = simulate(model, PartlyQuantized(frozenset(), frozenset()), rows, batch_size=16)
    np.testing.assert_allclose(nothing, engine_logits(floats, rows), atol=1e-5)
    assert np.abs(whole - nothing).max() > 1e-4


@pytest.mark.parametrize(
    "layer", ["bert.encoder.layer.0.attention.self.query", "bert.embeddings.word_embeddings", "classifier"]
)
def test_a_layer_left_out_is_what_keep_float_gives(quantized: Quantized, layer: str) -> None:
    model, rows = quantized
    left_out = simulate(model, PartlyQuantized.whole(model, keep_float={layer}), rows, batch_size=16)
    # the same grids, built as an export with --keep-float builds them
    grids = quantized_parameters(model.source.model, per_channel=True, keep_float=(layer,))
    trimmed = [
        (replace(site, linears=tuple(name for name in site.linears if name != layer)), amax)
        for site, amax in zip(model.sites, model.amax, strict=True)  # type: ignore[arg-type]
    ]
    kept = [(site, amax) for site, amax in trimmed if site.linears]
    sites = tuple(site for site, _ in kept)
    expected = replace(
        model, sites=sites, amax=torch.stack([amax for _, amax in kept]),
        weights=prepare_weights(model.source.model, grids, sites),
    )  # fmt: skip
    np.testing.assert_array_equal(left_out, engine_logits(expected, rows))


def test_smoothing_alone_changes_nothing(quantized: Quantized) -> None:
    model, rows = quantized
    exponents = {site.name: tuple(range(4)) * (32 // 4) for site in model.sites[:2]}
    sites = tuple(replace(site, smoothing=exponents.get(site.name, ())) for site in model.sites)
    grids = quantized_parameters(model.source.model, per_channel=True)
    smoothed = replace(model, sites=sites, weights=prepare_weights(model.source.model, grids, sites))
    nothing = PartlyQuantized(frozenset(), frozenset())
    np.testing.assert_allclose(
        simulate(smoothed, nothing, rows, batch_size=16), simulate(model, nothing, rows, batch_size=16), atol=1e-5
    )
    # a layer whose input is smoothed for others reads it as it is
    left_out = PartlyQuantized(frozenset(), frozenset(), frozenset({sites[0].linears[0]}))
    np.testing.assert_allclose(
        simulate(smoothed, left_out, rows, batch_size=16), simulate(model, nothing, rows, batch_size=16), atol=1e-5
    )


def test_ranges_do_not_depend_on_what_stays_float(quantized: Quantized) -> None:
    model, rows = quantized
    kept = calibrated(model, rows, options=QuantizationConfig(keep_float=("classifier",)), seed=11)
    whole = calibrated(model, rows, options=QuantizationConfig(), seed=11)
    by_name = dict(zip((site.name for site in whole.sites), whole.amax, strict=True))  # type: ignore[arg-type]
    assert [float(amax) for amax in kept.amax] == [float(by_name[site.name]) for site in kept.sites]  # type: ignore[union-attr]
