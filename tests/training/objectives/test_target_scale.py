"""Scores are standardized by numpy's mean and standard deviation, and come back in the user's units."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from q8bert.spec.errors import ConfigError, InputError
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale, read_target_scale, write_target_scale

SCORES = np.random.default_rng(0).choice(np.linspace(0, 5, 26), 400)


def scale_of(scores: Any) -> TargetScale:
    return TargetScale.of_scores(list(scores), source="train.tsv")


def test_scores_are_standardized_by_hand() -> None:
    scale = scale_of([1.0, 2.0, 3.0, 6.0])
    assert scale.mean == 3.0
    assert scale.std == pytest.approx(3.5**0.5, rel=1e-15)
    found = scale.standardize(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, (np.array([-2, -1, 0, 3]) / 3.5**0.5).astype(np.float32))


@pytest.mark.parametrize(("factor", "term"), [(20, 0), (1000, 0), (1, 1000), (1000, 1000), (0.01, -7), (-1000, 1000)])
def test_scores_of_another_scale_are_learned_as_the_same_numbers(factor: float, term: float) -> None:
    changed = SCORES * factor + term
    expected = scale_of(SCORES).standardize(torch.tensor(SCORES))
    found = scale_of(changed).standardize(torch.tensor(changed)) * np.sign(factor)
    # float64 knows them to 1e-13, so of float32's some one in a million is a neighbour
    np.testing.assert_array_max_ulp(found.numpy(), expected.numpy(), maxulp=1)


def test_outputs_come_back_by_one_product_and_one_sum_in_float32() -> None:
    scale = scale_of(SCORES * 1000 + 1000)
    outputs = np.random.default_rng(1).normal(size=(9, 1)).astype(np.float32)
    expected = outputs * np.float32(scale.std) + np.float32(scale.mean)
    np.testing.assert_array_equal(scale.restore(torch.from_numpy(outputs)), expected)
    scores = torch.tensor(SCORES * 1000 + 1000)
    np.testing.assert_allclose(scale.restore(scale.standardize(scores)), scores, rtol=1e-6)


def test_unscaled_outputs_stay_as_they_are() -> None:
    outputs = torch.randn(5, 3)
    assert torch.equal(UNSCALED.restore(outputs), outputs)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([2.5, 2.5, 2.5], r"train\.tsv: all 3 scores are 2\.5\. Regression is learned from scores that differ"),
        ([0.1] * 10, r"all 10 scores are 0\.1"),
        ([4.0], "there is one score alone"),
        ([1e300, -1e300], r"from -1e\+300 to 1e\+300, are of a size that float32 cannot hold. Multiply"),
        ([1e-40, 2e-40], "are of a size that float32 cannot hold"),
        ([1e9, 1e9 + 1], r"too little from their mean, 1e\+09, .*deviation is 0\.5\. Subtract a constant"),
        ([0.1, 0.1, 0.1 + 1e-16], "too little from their mean"),
    ],
)
def test_scores_that_cannot_be_learned_are_refused_with_a_remedy(scores: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scale_of(scores)


def test_a_configuration_keeps_every_bit_and_says_nothing_of_no_scale() -> None:
    scale, config = scale_of(SCORES / 3), SimpleNamespace()
    write_target_scale(config, scale)
    assert read_target_scale(vars(config)) == scale
    write_target_scale(config, UNSCALED)
    assert not vars(config)
    assert read_target_scale(vars(config)) == UNSCALED == TargetScale(mean=0.0, std=1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1.0, 2.0], "must be an object with mean and std"),
        ({"mean": 1.0, "std": 0.0}, "std must be between 1e-30 and 1e\\+30, got 0.0"),
        ({"mean": 1.0, "std": -1.0}, "std must be between"),
        ({"mean": "1", "std": 1.0}, "mean must be a finite number, got '1'"),
        ({"std": 1.0}, "mean must be a finite number, but is missing"),
        ({"mean": float("nan"), "std": 1.0}, "mean must be a finite number"),
        ({"mean": 1.0, "std": 1.0, "unit": "km"}, "unknown key 'unit'"),
    ],
)
def test_a_damaged_scale_is_refused(content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_target_scale({"target_scale": content})
