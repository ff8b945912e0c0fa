"""What of a source's weights is used, left, drawn anew or refused, and in which form they are given out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from q8bert.spec.errors import ModelError
from q8bert.training.models import configuration

# XLM-RoBERTa and CamemBERT are RoBERTa's code under other names
FAMILIES = [
    pytest.param(family, marks=pytest.mark.slow) if family in {"xlm-roberta", "camembert"} else family
    for family in configuration.FAMILIES
]
LAYER = "bert.encoder.layer.0"


def as_pickle(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def spans(model: torch.nn.Module) -> list[tuple[int, int]]:
    return sorted((parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (f"{LAYER}.attention.self.distance_embedding.weight", (63, 8), "has no place for"),
        (f"{LAYER}.crossattention.self.query.weight", (16, 16), "has no place for"),
        ("bert.encoder.layer.1.output.dense.weight", (16, 32), "has no place for"),
        ("bert.pooler.dense_2.weight", (16, 16), "has no place for"),
        ("classifier.2.weight", (2, 16), "has no place for"),
        ("dense.weight", (16, 16), "has no place for"),
        (f"{LAYER}.attention.self.query.lora_A.default.weight", (4, 16), r"of an adapter .*merge_and_unload"),
        (f"{LAYER}.output.adapters.x.adapter_down.0.weight", (4, 16), "of an adapter"),
    ],
)
def test_weights_without_which_it_is_another_model_are_refused_by_name(
    make_source: Any, edit_weights: Any, load: Any, name: str, shape: tuple[int, ...], message: str
) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    edit_weights(folder, {name: torch.zeros(shape)})
    with pytest.raises(ModelError, match=message) as raised:
        load(folder)
    assert name in str(raised.value)


def test_the_same_in_a_model_without_a_head(make_source: Any, edit_weights: Any, load: Any) -> None:
    folder = make_source(AutoModel)  # its names have no prefix
    name = "encoder.layer.0.attention.self.distance_embedding.weight"
    edit_weights(folder, {name: torch.zeros(63, 8)})
    with pytest.raises(ModelError, match=f"has no place for .{name}"):
        load(folder)


def test_an_adapter_in_the_place_of_a_model_is_refused(make_source: Any, load: Any) -> None:
    folder = make_source(AutoModel)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter.*merge_and_unload"):
        load(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "auto", [AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForQuestionAnswering, AutoModel]
)
def test_heads_of_pretraining_and_of_questions_stay_unused(make_source: Any, load: Any, auto: Any, family: str) -> None:
    folder = make_source(auto, family)
    source = load(folder)
    own, taken = auto.from_pretrained(folder), source.model.base_model.state_dict()
    body = (own.base_model if auto is not AutoModel else own).state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in taken.items() if name in body)
    n_unused = len(load_file(folder / "model.safetensors")) - sum(name in taken for name in body)
    assert sum(int(group.partition("(")[2].rstrip(")") or 1) for group in source.report.unused) == n_unused
    lacks_pooler = "pooler.dense.weight" in taken and "pooler.dense.weight" not in body
    assert [name for name in source.report.drawn if "pooler" in name] == [
        f"bert.pooler.dense.{kind}" for kind in ("bias", "weight") if lacks_pooler
    ]
    assert any("bert.pooler.dense.weight" in line for line in source.report.lines()) == lacks_pooler


def test_buffers_that_older_releases_saved_stay_unused(make_source: Any, edit_weights: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    edit_weights(folder, {"bert.embeddings.position_ids": torch.arange(32)[None]})
    load(folder)


def test_names_of_older_releases_are_known(make_source: Any, load: Any, edit_weights: Any, logits: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    wanted = logits(AutoModelForSequenceClassification.from_pretrained(folder))
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(folder / "model.safetensors")
    edit_weights(
        folder,
        {
            name.replace(new, before): tensor
            for name, tensor in weights.items()
            for new, before in old.items()
            if new in name
        }
        | {name: None for name in weights if "LayerNorm" in name},
    )
    torch.testing.assert_close(logits(load(folder).model), wanted)


@pytest.mark.parametrize("twin", ["bert.embeddings.LayerNorm.beta", "encoder.layer.0.output.dense.bias"])
def test_two_weights_for_one_place_are_refused(make_source: Any, edit_weights: Any, load: Any, twin: str) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    edit_weights(folder, {twin: torch.zeros(16)})
    with pytest.raises(ModelError, match="more than one weight for the same place"):
        load(folder)


def test_weights_that_lack_or_have_another_shape_are_refused(make_source: Any, edit_weights: Any, load: Any) -> None:
    folder, name = make_source(AutoModelForSequenceClassification), f"{LAYER}.output.dense.weight"
    edit_weights(folder, {name: torch.zeros(16, 31)})
    with pytest.raises(ModelError, match=rf"{name} has the shape \(16, 31\), and config\.json asks for \(16, 32\)"):
        load(folder)
    edit_weights(folder, {name: None})
    with pytest.raises(ModelError, match=f"lacks weights of the encoder itself .{name}"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(make_source: Any, edit_weights: Any, load: Any, value: float) -> None:
    folder, name = make_source(AutoModelForSequenceClassification), f"{LAYER}.output.dense.bias"
    edit_weights(folder, {name: torch.tensor([0.0] * 15 + [value])})
    with pytest.raises(ModelError, match=f"{name} holds values that are infinite or no numbers"):
        load(folder)


def test_doubles_beyond_float32_are_refused(make_source: Any, edit_weights: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    edit_weights(folder, {"classifier.bias": torch.tensor([0.0, 1e300], dtype=torch.float64)})
    with pytest.raises(ModelError, match=r"classifier\.bias holds values that are infinite"):
        load(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_half_weights_are_float32_within_and_in_the_configuration(
    make_source: Any, edit_config: Any, load: Any, tmp_path: Path, dtype: str
) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    half = AutoModelForSequenceClassification.from_pretrained(folder).to(getattr(torch, dtype))
    half.save_pretrained(folder)
    edit_config(folder, torch_dtype=dtype)
    source = load(folder)
    for name, parameter in source.model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, half.get_parameter(name).float())
    assert f"weights of type {dtype} are trained in float32" in source.report.lines()
    with torch.no_grad():
        source.model.classifier.weight.add_(2.0**-20)  # a step that neither half has bits for
    source.model.save_pretrained(tmp_path / "checkpoint")
    content = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert (content["dtype"], content["architectures"]) == ("float32", ["BertForSequenceClassification"])
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint")
    assert torch.equal(again.classifier.weight, source.model.classifier.weight)


def test_weights_with_gaps_become_contiguous_and_train_as_they_should(make_source: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    weights = load_file(folder / "model.safetensors")
    as_pickle(folder, {name: tensor.t().contiguous().t() for name, tensor in weights.items()})
    model = load(folder).model
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    weight = model.bert.encoder.layer[0].output.dense.weight
    plain = torch.nn.Parameter(weight.detach().clone())
    weight.grad = plain.grad = torch.arange(weight.numel()).reshape(weight.shape).float()
    torch.optim.AdamW([weight], fused=True).step()
    torch.optim.AdamW([plain], fused=False, foreach=False).step()
    assert torch.allclose(weight, plain, atol=1e-6)


def test_weights_that_share_memory_are_told_and_trained_apart(make_source: Any, load: Any, logits: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    weights = load_file(folder / "model.safetensors")
    query, key = (f"{LAYER}.attention.self.{name}.weight" for name in ("query", "key"))
    as_pickle(folder, weights | {key: weights[query]})
    wanted = logits(AutoModelForSequenceClassification.from_pretrained(folder))
    source = load(folder)
    (told,) = source.report.untied
    assert told in {query, key}
    ends, starts = zip(*((end, start) for start, end in spans(source.model)), strict=True)
    assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True))
    torch.testing.assert_close(logits(source.model), wanted)


def test_a_plain_model_has_memory_of_its_own_and_nothing_to_tell_but_its_head(make_source: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    source = load(folder)
    before = {name: parameter.detach().clone() for name, parameter in source.model.named_parameters()}
    (folder / "model.safetensors").write_bytes(b"\0" * (folder / "model.safetensors").stat().st_size)
    assert all(torch.equal(parameter, before[name]) for name, parameter in source.model.named_parameters())
    assert len(source.report.lines()) == 1
