"""The learning rate by its formula, and what is decayed."""

import pytest
from torch import nn

from q8bert.training.loop.optimization import adamw, learning_rate_at


def test_learning_rate_warms_up_linearly_and_decays_polynomially() -> None:
    options = {"peak": 1.0, "end": 0.1, "n_steps": 12, "warmup_ratio": 1 / 6, "power": 2.0}
    rates = [learning_rate_at(step, **options) for step in range(13)]  # type: ignore[arg-type]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([0.9 * (1 - step / 10) ** 2 + 0.1 for step in range(11)])


def test_biases_and_layer_norm_are_not_decayed() -> None:
    model = nn.ModuleDict({"dense": nn.Linear(2, 2), "LayerNorm": nn.LayerNorm(2), "sa_layer_norm": nn.LayerNorm(2)})
    decayed, undecayed = adamw(dict(model.named_parameters()), weight_decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1
    assert [id(parameter) for parameter in decayed["params"]] == [id(model["dense"].weight)]
    assert undecayed["weight_decay"] == 0.0
    assert len(undecayed["params"]) == 5
