"""The card says what the manifest says."""

from typing import Any

import pytest

from q8bert.export.bundle.model_card import model_card
from q8bert.spec.bundle.bundle import MODEL_FILE, FileRecord, Manifest


def manifest(**changes: Any) -> Manifest:
    quantization = {
        "method": "qat", "products": {"onnxruntime": "1.32.0", "n_integer": 10, "n_float": 0, "float_products": []},
        "saturation": {"n_pairs": 8, "n_unsafe_before": 3}, "weight_granularity": "per_channel",
        "table_granularity": "per_column", "float_layers": [],
    }  # fmt: skip
    return Manifest(
        precision="int8", task={"name": "SST-2", "labels": ["negative", "positive"], "text_pair_column": None},
        max_length=32, pad_token_id=0, input_names=("input_ids",), files={MODEL_FILE: FileRecord(1, "0")},
        quantization=quantization | changes.pop("quantization", {}), metrics={"accuracy": 0.9},
        model={"source": "minilm", "architecture": "Bert", "n_parameters": 5} | changes.pop("model", {}),
    )  # fmt: skip


@pytest.mark.parametrize(("granularity", "words"), [("per_column", "per column"), ("per_tensor", "per tensor")])
@pytest.mark.parametrize(
    ("ranges", "how"),
    [("ema", "ranges averaged while it was trained"), ("learned", "ranges learned with the weights")],
)
def test_the_scales_of_weights_and_of_tables_and_how_ranges_came_are_named(
    granularity: str, words: str, ranges: str, how: str
) -> None:
    card = model_card(manifest(quantization={"table_granularity": granularity, "ranges": ranges}), None)
    assert f"weights per channel, embeddings {words}, activations with {how}" in card


def test_zero_points_are_named_and_nothing_else_calls_the_activations_symmetric() -> None:
    card = model_card(manifest(quantization={"activation_zero_points": {"classifier.input": 4}}), None)
    assert "Zero points of activations, all others 0: classifier.input 4" in card
    assert "symmetric" not in card
    shifted = {"activation_zero_points": {"classifier.input": 4}, "symmetric": True}
    card = model_card(manifest(quantization=shifted), None)
    assert (
        "Zero points of activations, all others 0; as additions, the graph's own are all 0: classifier.input 4" in card
    )


def test_a_teacher_is_named() -> None:
    assert "teacher" not in model_card(manifest(), None)
    twin = {"model": "twin", "weight": 0.5, "temperature": 2.0}
    assert "a teacher too, its own float model, with 50 % of the loss" in model_card(
        manifest(model={"teacher": twin}), None
    )
    other = {"model": "runs/large", "weight": 0.25, "weights_sha256": "0"}
    assert "a teacher too, runs/large, with 25 % of the loss" in model_card(manifest(model={"teacher": other}), None)
