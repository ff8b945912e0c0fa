"""What of a model is set otherwise than its configuration says, in every family."""

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from q8bert.spec.errors import ConfigError, ModelError
from q8bert.training.models.config import ArchitectureConfig

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet")


def dropouts(model: nn.Module) -> dict[str, float]:
    return {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}


@pytest.mark.parametrize("family", FAMILIES)
def test_both_dropouts_are_set_apart(make_source: Any, load: Any, family: str) -> None:
    folder = make_source(AutoModelForSequenceClassification, family)
    source = load(folder, dropout=0.25, architecture=ArchitectureConfig(attention_dropout=0.5))
    model, config = source.model, source.model.config.to_dict()
    attention = next(name for name in ("attention_probs_dropout_prob", "attention_dropout") if name in config)
    hidden = next(name for name in ("hidden_dropout_prob", "dropout") if name in config)
    assert (config[hidden], config[attention]) == (0.25, 0.5)
    # every Dropout module is one of the two, and those of the head are among the first
    assert {probability for name, probability in dropouts(model).items() if "attention" not in name} == {0.25}
    other = load(folder, dropout=0.25, architecture=ArchitectureConfig(hidden_dropout=0.0)).model.config.to_dict()
    assert (other[hidden], other[attention]) == (0.0, 0.25)
    own = load(folder, dropout=None, architecture=ArchitectureConfig(hidden_dropout=0.125)).model.config.to_dict()
    assert own[attention] == 0.1, "the model's own"


def test_attention_drops_what_it_is_told_to(make_source: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    ids = torch.tensor([[2, 4, 6, 3]])

    def differs(**options: Any) -> bool:
        source = load(folder, dropout=0.0, architecture=ArchitectureConfig(**options))
        torch.manual_seed(0)
        with torch.no_grad():
            outputs = [source.model.train()(input_ids=ids, return_dict=True).logits for _ in range(2)]
        return not torch.equal(*outputs)

    assert not differs()
    assert differs(attention_dropout=0.5)
    assert differs(hidden_dropout=0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_head_is_drawn_with_the_deviation_that_is_asked_for(make_source: Any, load: Any, family: str) -> None:
    folder = make_source(AutoModel, family)
    torch.manual_seed(0)
    source = load(folder, labels=tuple(map(str, range(400))), architecture=ArchitectureConfig(initializer_range=0.125))
    drawn = source.model.get_parameter(f"{source.report.layer}.weight")
    assert drawn.shape == (400, 16)
    assert float(drawn.detach().std()) == pytest.approx(0.125, rel=0.05)  # of 6400 numbers
    assert f"{source.report.layer}.weight" in source.drawn


@pytest.mark.parametrize("family", FAMILIES)
def test_from_scratch_every_weight_is_drawn_in_the_sizes_that_are_asked_for(
    make_source: Any, load: Any, logits: Any, family: str
) -> None:
    folder = make_source(AutoModelForSequenceClassification, family)
    (folder / "model.safetensors").unlink()  # a configuration and a tokenizer are enough
    sizes = ArchitectureConfig(
        from_scratch=True, layers=3, heads=4, hidden_size=24, intermediate_size=40, max_positions=20,
        initializer_range=0.25,
    )  # fmt: skip
    torch.manual_seed(0)
    source = load(folder, max_length=16, architecture=sizes)
    config = source.model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (3, 4, 24)
    assert (config.max_position_embeddings, config.vocab_size) == (20, 7)
    widths = {tuple(module.weight.shape) for module in source.model.modules() if isinstance(module, nn.Linear)}
    assert {(24, 24), (40, 24), (24, 40)} <= widths
    assert source.drawn == {name for name, _ in source.model.named_parameters()}
    assert source.head_units is None
    told = source.report.lines()
    assert told[0].startswith("warning: from scratch: all weights are drawn at random")
    assert any("→ 24" in line for line in told)
    assert source.report.values()["drawn"] == "all"
    feed_forward = next(
        module.weight for module in source.model.modules()
        if isinstance(module, nn.Linear) and tuple(module.weight.shape) == (40, 24)
    )  # fmt: skip
    assert float(feed_forward.detach().std()) == pytest.approx(0.25, rel=0.1)  # of 960 numbers
    first = logits(source.model)
    torch.manual_seed(0)
    assert torch.equal(logits(load(folder, max_length=16, architecture=sizes).model), first), "the seed draws them"
    torch.manual_seed(1)
    assert not torch.equal(logits(load(folder, max_length=16, architecture=sizes).model), first)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_model_with_more_layers_the_first_ones_are_kept(
    make_source: Any, edit_config: Any, load: Any, logits: Any, family: str
) -> None:
    count = "n_layers" if family == "distilbert" else "num_hidden_layers"
    deep = make_source(AutoModelForSequenceClassification, family, **{count: 3})
    source = load(deep, architecture=ArchitectureConfig(layers=2))
    assert f"{count} 3 → 2" in source.report.options_set
    assert any(group.startswith("those of layers from 2 on (") for group in source.report.unused)
    # what transformers makes of the same file where the configuration says two layers
    shallow = deep.with_name("shallow")
    shutil.copytree(deep, shallow)
    edit_config(shallow, **{count: 2})
    reference = AutoModelForSequenceClassification.from_pretrained(shallow, attn_implementation="eager")
    assert torch.equal(logits(source.model), logits(reference))
    assert not torch.equal(logits(source.model), logits(load(deep).model))
    kept = {name for name in load_file(deep / "model.safetensors") if "layer.2." not in name}
    assert {name for name, _ in source.model.named_parameters()} == kept


def test_all_layers_may_be_asked_for_and_more_are_refused(make_source: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    assert load(folder, architecture=ArchitectureConfig(layers=1)).report.options_set == ()
    with pytest.raises(ModelError, match=r"--layers 2 is more than the 1 layers of .*--from-scratch"):
        load(folder, architecture=ArchitectureConfig(layers=2))


def test_sizes_of_other_weights_are_refused_unless_all_are_drawn() -> None:
    with pytest.raises(ConfigError) as caught:
        ArchitectureConfig(heads=4, hidden_size=64, intermediate_size=96, max_positions=40)
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == [
        "heads", "hidden_size", "intermediate_size", "max_positions",
    ]  # fmt: skip
    assert all("--from-scratch" in fault for fault in caught.value.faults)


def test_sizes_that_do_not_fit_each_other_are_refused(make_source: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    with pytest.raises(ModelError, match="hidden_size 16 is not a multiple of the 3 heads"):
        load(folder, architecture=ArchitectureConfig(from_scratch=True, heads=3))


def test_the_longest_row_follows_the_positions(make_source: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    with pytest.raises(ModelError, match="--max-length 33 is beyond the 32 positions"):
        load(folder, max_length=33)
    source = load(folder, max_length=64, architecture=ArchitectureConfig(from_scratch=True, max_positions=64))
    assert source.model.config.max_position_embeddings == 64
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == 32
