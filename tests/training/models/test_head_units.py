"""A head that came trained gives the same scores in units of another scale."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from q8bert.training.models.configuration import FAMILIES
from q8bert.training.models.head_rows import last_linear
from q8bert.training.models.head_units import change_units
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
    "max_position_embeddings": 64, "num_labels": 1,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, pad_token_id=1),
    "xlm-roberta": XLMRobertaConfig(**SIZES, pad_token_id=1),
    "camembert": CamembertConfig(**SIZES, pad_token_id=1),
    "distilbert": DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=50, num_labels=1),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "mpnet": MPNetConfig(**SIZES),
}


def scores(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.randint(5, 50, (4, 7))).logits
    return logits


def test_every_family_that_is_let_in_is_tried() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_in_the_users_units_stay_what_they_were(family: str) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_config(CONFIGS[family]).eval()
    layer = model.get_submodule(last_linear(model, base=model.base_model_prefix))
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    seen: list[torch.Tensor] = []
    with layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output)):
        before = scores(model)
    assert torch.equal(seen[0], before), "the layer gives the logits"
    first, second = TargetScale(2.5, 1.5), TargetScale(3500.0, 1500.0)
    change_units(model, given=UNSCALED, wanted=first)
    np.testing.assert_allclose(scores(model), (before - 2.5) / 1.5, rtol=0, atol=1e-5)
    change_units(model, given=first, wanted=second)
    np.testing.assert_allclose(scores(model), (before - 3500) / 1500, rtol=0, atol=1e-5)
    change_units(model, given=second, wanted=UNSCALED)
    np.testing.assert_allclose(scores(model), before, rtol=0, atol=1e-3)  # 3500 in float32 has 2e-4 between neighbours
