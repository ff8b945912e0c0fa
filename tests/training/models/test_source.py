"""What is let in, what is refused, and which activations share a range."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertForSequenceClassification, BertConfig, BertForSequenceClassification

from q8bert.spec.errors import ModelError
from q8bert.training.models.source import load_source_model
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.quantization.sites import find_sites, refuse_float_layers

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}


def tiny_bert() -> BertForSequenceClassification:
    return BertForSequenceClassification._from_config(BertConfig(**TINY), attn_implementation="eager")


def test_query_key_and_value_share_a_site_and_every_linear_has_one() -> None:
    model = tiny_bert()
    sites = find_sites(model)
    attention = "bert.encoder.layer.1.attention.self"
    assert (f"{attention}.query", f"{attention}.key", f"{attention}.value") in [site.linears for site in sites]
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert sorted(name for site in sites for name in site.linears) == sorted(linears)
    assert len(sites) == len(linears) - 2 * 2  # two layers save two sites each


class _Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 1)


def test_a_layer_that_would_stay_float_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"silently stay float: conv \(Conv1d\)"):
        refuse_float_layers(_Convolution())


class _Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class _Odd(nn.Module):
    """One Linear is run twice, the other never."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> _Output:
        return _Output(self.twice(self.twice(input_ids.float())))


def test_linears_that_do_not_run_exactly_once_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="never, twice"):
        find_sites(_Odd())


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    config = AlbertConfig(**TINY, embedding_size=16)
    AlbertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"family 'albert'.*supported are bert, roberta"):
        load_source_model(str(tmp_path), n_outputs=2, labels=("a", "b"), max_length=16, dropout=None)


def test_a_missing_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere.*is not there.*config.json"):
        load_source_model(str(tmp_path / "nowhere"), n_outputs=2, labels=(), max_length=16, dropout=None)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, small_model: Path) -> None:
    for path in small_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    from safetensors.torch import save_file

    save_file({"stranger": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights of the encoder"):
        load_source_model(str(tmp_path), n_outputs=2, labels=(), max_length=16, dropout=None)


def test_a_length_beyond_the_position_table_is_refused(small_model: Path) -> None:
    with pytest.raises(ModelError, match="--max-length 65 is beyond the 64 positions"):
        load_source_model(str(small_model), n_outputs=2, labels=(), max_length=65, dropout=None)


def test_loading_sets_head_labels_dropout_and_inputs(small_model: Path) -> None:
    source = load_source_model(str(small_model), n_outputs=3, labels=("x", "y", "z"), max_length=64, dropout=0.25)
    assert source.model.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert source.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert {module.p for module in source.model.modules() if isinstance(module, nn.Dropout)} == {0.25}
    assert source.model.classifier.out_features == 3


def test_a_head_that_came_trained_says_in_what_units_it_is_and_a_new_one_has_none(
    small_model: Path, tmp_path: Path
) -> None:
    def units(folder: Path, n_outputs: int) -> TargetScale | None:
        source = load_source_model(str(folder), n_outputs=n_outputs, labels=(), max_length=64, dropout=None)
        assert not hasattr(source.model.config, "target_scale")
        return source.head_units

    assert units(small_model, 1) is None  # it has a head of two outputs
    assert units(small_model, 2) == UNSCALED
    for path in small_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"target_scale": {"mean": 3, "std": 0.1}}))
    assert units(tmp_path, 2) == TargetScale(3, 0.1)
    (tmp_path / "config.json").write_text(json.dumps(content | {"target_scale": {"mean": 3}}))
    with pytest.raises(ModelError, match=r"config\.json: std must be a finite number, but is missing"):
        units(tmp_path, 2)
