"""Learned ranges: the gradient against the paper's formula in numpy, steps against torch's AdamW, and what they learn."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from q8bert.spec import quant
from q8bert.training.programs import operators
from q8bert.training.quantization.fake_quantize import fake_quantize, scale_from_amax
from q8bert.training.quantization.learned_ranges import LearnedRanges, ranges_from_tensors
from q8bert.training.quantization.ranges import RangeState


def by_the_paper(x: NDArray[np.float64], dy: NDArray[np.float64], scale: float, zero_point: int) -> float:
    """Equation 3 of the paper, summed, with the factor of its section 2.2 for a signed grid of 8 bits."""
    codes = x / scale
    lowest, highest = -128 - zero_point, 127 - zero_point
    slope = np.where(codes <= lowest, lowest, np.where(codes >= highest, highest, np.rint(codes) - codes))
    return float((slope * dy).sum() / np.sqrt(x.shape[-1] * 127))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("quantize", [fake_quantize, operators.fake_quantize], ids=["torch", "program"])
@pytest.mark.parametrize("zero_point", [0, -100, 44])
@pytest.mark.parametrize(
    ("shift", "width"),
    [(0.0, 1.0), (0.0, 5.0), (1000.0, 1.0), (-1000.0, 1.0)],
    ids=["inside", "both", "clamped above", "clamped below"],
)
def test_the_gradient_of_a_scale_is_that_of_the_paper(
    quantize: Callable[..., Tensor], zero_point: int, shift: float, width: float
) -> None:
    amax, n_codes = 3.0, 255
    # in codes, about the middle of the grid, so that all, some or none are clamped
    codes = (drawn(4, 6, 8).clamp(-2, 2) * width * n_codes / 5 + shift - zero_point).numpy().astype(np.float64)
    step = float(quant.scale_from_amax(amax))
    x, dy = torch.tensor(codes * step, dtype=torch.float32), drawn(4, 6, 8, seed=1)
    scale = torch.tensor(step, requires_grad=True)
    (quantize(x, scale, torch.tensor(float(zero_point))) * dy).sum().backward()
    n_clamped = int(((codes < -128 - zero_point) | (codes > 127 - zero_point)).sum())
    assert (n_clamped == 0, n_clamped == codes.size) == (width == 1.0 and shift == 0.0, shift != 0.0)
    assert scale.grad is not None
    expected = by_the_paper(x.double().numpy(), dy.double().numpy(), step, zero_point)
    assert float(scale.grad) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("quantize", [fake_quantize, operators.fake_quantize], ids=["torch", "program"])
def test_what_the_activation_gets_does_not_depend_on_whether_ranges_are_learned(
    quantize: Callable[..., Tensor],
) -> None:
    results = []
    for learns in (False, True):
        x, scale = (drawn(5, 7) * 100).requires_grad_(), torch.tensor(0.7, requires_grad=learns)
        y = quantize(x, scale, torch.tensor(-20.0))
        (y * drawn(5, 7, seed=1)).sum().backward()
        assert (scale.grad is None) != learns
        results.append((y.detach(), x.grad))
    assert all(torch.equal(*both) for both in zip(*results, strict=True))


# ---- steps ---------------------------------------------------------------------------------------


def test_steps_are_those_of_adamw_on_the_logarithms() -> None:
    start = torch.tensor([0.5, 3.0, 24.0])
    theirs = torch.nn.Parameter(start.double().log())
    optimizer = torch.optim.AdamW([theirs], lr=0.0, weight_decay=0.0, eps=1e-12)
    ours = LearnedRanges.starting_at(start)
    for step in range(20):
        gradient, rate = drawn(3, seed=step) * 10.0 ** (step % 3), 1e-2 / (step + 1)
        optimizer.param_groups[0]["lr"] = rate
        theirs.grad = gradient.double() * theirs.detach().exp()  # d amax / d log amax is amax
        optimizer.step()
        ours = ours.descend(gradient, rate=rate)
        torch.testing.assert_close(ours.log_amax, theirs.detach(), rtol=1e-12, atol=0)
    assert ours.count == 20
    torch.testing.assert_close(ours.amax(), theirs.detach().exp().float())


def test_the_first_step_moves_wide_and_narrow_ranges_by_the_same_share() -> None:
    start = torch.tensor([0.01, 3.0, 900.0])
    state = LearnedRanges.starting_at(start)
    moved = state.descend(torch.tensor([-5.0, 1e-3, 7.0]), rate=0.01).amax()
    torch.testing.assert_close(moved / start, torch.exp(torch.tensor([0.01, -0.01, -0.01])), rtol=1e-4, atol=0)
    torch.testing.assert_close(state.amax(), start)  # states are values


def test_ranges_stay_positive_whatever_pulls_at_them() -> None:
    state = LearnedRanges.starting_at(torch.tensor([1e-5]))
    for _ in range(20):
        state = state.descend(torch.tensor([1e9]), rate=1.0)
        assert float(state.amax()) >= quant.MIN_AMAX
    assert float(state.amax()) == quant.MIN_AMAX  # of which there is a scale that no kernel flushes to 0


@pytest.mark.parametrize("start", [0.2, 40.0], ids=["too narrow", "too wide"])
@pytest.mark.parametrize("zero_point", [0, -60])
def test_a_range_that_starts_wrong_learns_towards_the_least_error(start: float, zero_point: int) -> None:
    x = drawn(4096) if zero_point == 0 else drawn(4096).abs() + 0.1

    def error(amax: float) -> float:
        rounded = quant.fake_quantize(
            x.numpy(), quant.scale_from_amax(amax), qmin=-128, qmax=127, zero_point=zero_point
        )
        return float(np.square(rounded - x.numpy()).mean())

    best = min(np.geomspace(0.2, 40.0, 400), key=error)
    state = LearnedRanges.starting_at(torch.tensor([start]))
    for step in range(1500):
        amax = state.amax().requires_grad_()
        y = fake_quantize(x, scale_from_amax(amax)[0], torch.tensor(float(zero_point)))
        (y - x).square().mean().backward()
        assert amax.grad is not None
        state = state.descend(amax.grad, rate=0.02 * (1 - step / 1500))
    assert error(start) > 50 * error(best)
    assert error(float(state.amax())) < 2 * error(best)


# ---- kept and read -------------------------------------------------------------------------------


def test_both_kinds_of_ranges_are_read_as_they_were_kept() -> None:
    learned = LearnedRanges.starting_at(torch.tensor([1.0, 2.0])).descend(torch.tensor([0.5, -1.0]), rate=0.1)
    again = ranges_from_tensors(learned.tensors(), count=1, decay=0.0)
    assert isinstance(again, LearnedRanges)
    gradient = torch.tensor([2.0, 2.0])
    ours, theirs = (state.descend(gradient, rate=0.1).tensors() for state in (again, learned))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    observed = RangeState.empty(2, decay=0.9).observe(torch.tensor([1.0, 2.0]))
    assert ranges_from_tensors(observed.tensors(), count=1, decay=0.9) == observed


@pytest.mark.parametrize(
    "change",
    [
        {"exp_avg": torch.zeros(3, dtype=torch.float64)},
        {"exp_avg": torch.zeros(2)},
        {"log_amax": torch.tensor([1.0, float("nan")], dtype=torch.float64)},
        {"log_amax": torch.tensor(1.0, dtype=torch.float64)},
        {"average": torch.ones(2, dtype=torch.float64)},
    ],
)
def test_tensors_of_no_ranges_are_told(change: dict[str, Tensor]) -> None:
    kept = LearnedRanges.starting_at(torch.tensor([1.0, 2.0])).tensors()
    assert ranges_from_tensors(kept | change, count=1, decay=0.0) is None
