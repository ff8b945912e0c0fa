"""The learning rate by its formula, and what is decayed."""

import pytest
import torch
from torch import nn

from q8bert.training.loop.optimization import adamw, learning_rate_at


def test_learning_rate_warms_up_linearly_and_decays_polynomially() -> None:
    options = {"peak": 1.0, "end": 0.1, "n_steps": 12, "warmup": 2, "power": 2.0}
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


@pytest.mark.parametrize(("betas", "epsilon"), [((0.9, 0.999), 1e-8), ((0.5, 0.75), 1e-8), ((0.9, 0.999), 0.5)])
def test_betas_and_epsilon_are_those_of_the_formula(betas: tuple[float, float], epsilon: float) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = adamw({"weight": weight}, weight_decay=0.25, betas=betas, epsilon=epsilon)
    optimizer.param_groups[0]["lr"] = 0.125
    expected, mean, square = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2), torch.zeros(2)
    for step, gradient in enumerate((torch.tensor([0.5, 4.0]), torch.tensor([-1.5, 1.0])), start=1):
        weight.grad = gradient
        optimizer.step()
        mean = betas[0] * mean + (1 - betas[0]) * gradient.double()
        square = betas[1] * square + (1 - betas[1]) * gradient.double() ** 2
        # Loshchilov and Hutter 2019, algorithm 2
        unbiased, root = mean / (1 - betas[0] ** step), (square / (1 - betas[1] ** step)).sqrt()
        expected = expected - 0.125 * (unbiased / (root + epsilon) + 0.25 * expected)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-6)
