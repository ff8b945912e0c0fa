"""A fine-tuned head gives each output to the label of its name, in every family; what cannot be named so is drawn anew."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from q8bert.spec.errors import ModelError
from q8bert.training.models import configuration
from q8bert.training.models.head_rows import last_linear
from q8bert.training.models.source import SourceModel

# XLM-RoBERTa and CamemBERT are RoBERTa's code under other names
FAMILIES = [
    pytest.param(family, marks=pytest.mark.slow) if family in {"xlm-roberta", "camembert"} else family
    for family in configuration.FAMILIES
]
MNLI = ("entailment", "neutral", "contradiction")
LAST = dict.fromkeys(configuration.FAMILIES, "classifier.out_proj") | dict.fromkeys(
    ("bert", "distilbert"), "classifier"
)


def named(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def last_weight(source: SourceModel | PreTrainedModel) -> torch.Tensor:
    model = source.model if isinstance(source, SourceModel) else source
    return model.get_submodule(last_linear(model, base=model.base_model_prefix)).weight.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_their_names(make_source: Any, load: Any, logits: Any, family: str) -> None:
    names = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
    folder = make_source(AutoModelForSequenceClassification, family, **named(*names))
    own = logits(AutoModelForSequenceClassification.from_pretrained(folder))
    source = load(folder, MNLI)
    torch.testing.assert_close(logits(source.model), own[:, [2, 1, 0]])
    told = f"head {LAST[family]}: kept, its rows put in the order entailment, neutral, contradiction"
    assert told in source.report.lines()
    assert source.model.config.id2label == dict(enumerate(MNLI))


@pytest.mark.parametrize(
    ("names", "labels", "rows"),
    [
        (("positive", "negative"), ("negative", "positive"), [1, 0]),
        (("NEGATIVE", "POSITIVE"), ("negative", "positive"), [0, 1]),
        (("Not Entailment", "Entailment"), ("entailment", "not_entailment"), [1, 0]),
        (("a", "A"), ("A", "a"), [1, 0]),  # as written, for case tells them apart
        (("LABEL_0", "LABEL_1"), ("negative", "positive"), [0, 1]),
        (("1", "0"), ("0", "1"), [1, 0]),
        (("only",), (), [0]),
    ],
)
def test_which_rows_are_kept(make_source: Any, load: Any, names: Any, labels: Any, rows: list[int]) -> None:
    folder = make_source(AutoModelForSequenceClassification, **named(*names))
    own = last_weight(AutoModelForSequenceClassification.from_pretrained(folder))
    source = load(folder, labels)
    assert torch.equal(last_weight(source), own[rows])
    assert source.report.head.startswith("kept")
    assert ("have no names" in source.report.head) == (names[0] == "LABEL_0")


@pytest.mark.parametrize(
    ("names", "labels", "told"),
    [
        (("joy", "anger"), ("negative", "positive"), "new, the model's own is for joy, anger"),
        (("x", "X"), ("x", "y"), "new, the model's own is for x, X"),
        (MNLI, ("negative", "positive"), "new, the model's own has 3 outputs, the task 2"),
        (("only",), ("negative", "positive"), "new, the model's own has 1 output, the task 2"),
    ],
)
def test_a_head_that_does_not_fit_is_drawn_anew(
    make_source: Any, load: Any, names: Any, labels: Any, told: str
) -> None:
    folder = make_source(AutoModelForSequenceClassification, **named(*names))
    own = last_weight(AutoModelForSequenceClassification.from_pretrained(folder))
    torch.manual_seed(3)
    source = load(folder, labels)
    assert source.report.head == told
    new = last_weight(source)
    assert not any(torch.equal(row, other) for row in new for other in own)
    assert source.model.classifier.bias.eq(0).all()  # as transformers starts one
    torch.manual_seed(3)
    assert torch.equal(last_weight(load(folder, labels)), new)


def test_a_head_whose_bias_is_another_s_is_refused(make_source: Any, edit_weights: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    edit_weights(folder, {"classifier.bias": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"classifier\.bias .* the shapes \(2, 16\) and \(3,\)"):
        load(folder)
    edit_weights(folder, {"classifier.bias": None})
    assert load(folder).report.head.startswith("new")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_a_head_gets_one(make_source: Any, load: Any, family: str) -> None:
    source = load(make_source(AutoModelForMaskedLM, family))
    assert f"head {LAST[family]}: new, the model comes without one" in source.report.lines()
    assert {f"{LAST[family]}.weight", f"{LAST[family]}.bias"} <= source.drawn


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("auto", [AutoModelForTokenClassification, AutoModelForMultipleChoice])
def test_the_head_of_another_task_is_not_taken_for_ours(make_source: Any, load: Any, auto: Any, family: str) -> None:
    folder: Path = make_source(auto, family)
    own = auto.from_pretrained(folder).classifier.weight
    source = load(folder, () if auto is AutoModelForMultipleChoice else ("negative", "positive"))
    assert source.report.head.startswith("new")
    assert not any(torch.equal(row, other) for row in last_weight(source) for other in own)
