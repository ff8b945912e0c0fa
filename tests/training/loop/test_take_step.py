"""One optimizer step against plain torch: clipping, loss scaling, steps that are left out, ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from q8bert.spec.errors import CalibrationError
from q8bert.training.engines.engine import Batch, StepResult
from q8bert.training.loop.config import EvaluationConfig, OptimizationConfig, RecordConfig
from q8bert.training.loop.feed import StepBatches
from q8bert.training.loop.gradients import gradient_divisor, mean_gradients
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.optimization import adamw
from q8bert.training.loop.processes import Processes
from q8bert.training.loop.progress import Progress
from q8bert.training.loop.schedule import Schedule
from q8bert.training.loop.step import StepReport, TrainingState, take_step
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.learned_ranges import LearnedRanges
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights

INFINITE, NOT_A_NUMBER = float("inf"), float("nan")
RATE, MAX_NORM = 1e-2, 1.0


class Told:
    """An engine that gives the gradients that it is told, one set a step, times the loss scale."""

    range_gradient = torch.zeros(0)

    def __init__(self, weights: TrainableWeights, gradients: Sequence[Mapping[str, Tensor]], seen: float = 2.0) -> None:
        self.n_sites = 1
        self._weights, self._waiting, self._seen = weights, iter(gradients), seen

    def step(self, batch: Batch, amax: Tensor | None, *, seed: int, loss_scale: float = 1.0) -> StepResult:
        for name, gradient in next(self._waiting).items():
            self._weights.gradients[name].copy_(gradient * loss_scale)
        seen = torch.full((self.n_sites,), self._seen)
        return StepResult(torch.tensor(0.5), {}, seen, self.range_gradient * loss_scale)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"dense": nn.Linear(3, 4), "LayerNorm": nn.LayerNorm(4)})


def gradients_of_steps(n_steps: int) -> list[dict[str, Tensor]]:
    """Of the largest norm allowed, below it, and far above it, in turn."""
    generator = torch.Generator().manual_seed(1)
    sets = []
    for step in range(n_steps):
        drawn = {name: torch.randn(value.shape, generator=generator) for name, value in model().named_parameters()}
        norm = torch.linalg.vector_norm(torch.cat([x.flatten() for x in drawn.values()]))
        sets.append({name: x * (1.0, 0.1, 40.0)[step % 3] / norm for name, x in drawn.items()})
    return sets


class Loop:
    """What ``take_step`` works with, for a model of two layers."""

    def __init__(self, gradients: Sequence[Mapping[str, Tensor]], *, scale: LossScale, seen: float = 2.0) -> None:
        self.model = model()
        self.weights = prepare_weights(self.model, {"dense.weight": WeightGrid(0, saturation_free=True)}, ())
        self.engine: Any = Told(self.weights, gradients, seen)
        self.optimizer = adamw(self.weights.masters, weight_decay=0.1)
        site = Site("dense.input", ("dense",))
        ranges = RangeState.empty(1, decay=0.9).observe(torch.tensor([1.0]))
        self.state = TrainingState((site,), ranges, Progress(), scale)
        self.schedule = Schedule(
            n_steps=100, steps_per_epoch=10, rows_per_step=2, quantize_from=0, freeze_ranges_from=100, eval_every=10,
            # no warm-up and no decay: one rate for all steps
            optimization=OptimizationConfig(learning_rate=RATE, max_grad_norm=MAX_NORM, warmup_ratio=0.0, decay_power=0.0),
            evaluation=EvaluationConfig(), record=RecordConfig(), seed=0,
        )  # fmt: skip

    def step(self) -> StepReport:
        rows = Batch({"input_ids": torch.ones(2, 3, dtype=torch.int64)}, {})
        self.state, report = take_step(
            self.state, StepBatches((rows,), 2), engine=self.engine, optimizer=self.optimizer, weights=self.weights,
            refresh=self.weights.refresh, schedule=self.schedule, processes=Processes(),
        )  # fmt: skip
        return report

    def everything(self) -> list[Tensor]:
        """Masters, what the forward pass reads, and the optimizer's moments."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [x.detach().clone() for x in (*self.model.parameters(), *self.weights.effective.values(), *moments)]


def by_plain_torch(gradients: Sequence[Mapping[str, Tensor]]) -> nn.Module:
    """Clip and step as any torch program does."""
    plain = model()
    decayed = [plain.get_parameter("dense.weight")]
    others = [value for name, value in plain.named_parameters() if name != "dense.weight"]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=RATE, fused=False
    )
    for given in gradients:
        for name, value in plain.named_parameters():
            value.grad = given[name].clone()
        nn.utils.clip_grad_norm_(plain.parameters(), MAX_NORM)
        optimizer.step()
    return plain


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    for name, value in theirs.named_parameters():
        # to 1e-4 of a step
        torch.testing.assert_close(ours.get_parameter(name), value, rtol=1e-6, atol=1e-4 * RATE)


@pytest.mark.parametrize("scale", [LossScale(), LossScale(1024.0, 2.0, 1000)], ids=["float32", "float16"])
def test_steps_are_those_of_plain_torch_clipped_to_the_global_norm(scale: LossScale) -> None:
    gradients = gradients_of_steps(9)
    loop = Loop(gradients, scale=scale)
    reports = [loop.step() for _ in gradients]
    assert_same_weights(loop.model, by_plain_torch(gradients))
    assert [report.norm for report in reports] == pytest.approx([1.0, 0.1, 40.0] * 3, rel=1e-5)
    assert all(report.is_finite and report.rate == RATE and report.loss == 0.5 for report in reports)
    assert (loop.state.progress.step, loop.state.progress.loss_sum, loop.state.progress.loss_count) == (9, 4.5, 9)


def test_the_forward_pass_reads_the_weights_rounded_anew() -> None:
    loop = Loop(gradients_of_steps(1), scale=LossScale())
    loop.step()
    weight = loop.model.get_parameter("dense.weight").detach()
    rounded = loop.weights.effective["dense.weight"]
    # codes of at most 127 with a scale a row, half a step off at most; pairs of neighbours count as values too
    pairs = (weight[:, 0] + weight[:, 1]).abs()
    step = torch.maximum(weight.abs().amax(dim=1), pairs)[:, None] / 127
    torch.testing.assert_close(rounded, torch.round(weight / step) * step, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [INFINITE, -INFINITE, NOT_A_NUMBER])
def test_in_float32_a_gradient_that_is_not_finite_ends_training_and_changes_nothing(bad: float) -> None:
    good, broken = gradients_of_steps(2)
    broken["LayerNorm.bias"][1] = bad
    loop = Loop([good, broken], scale=LossScale())
    loop.step()
    before = loop.everything()
    with pytest.raises(CalibrationError, match="gradients are not finite at a loss scale of 1: training has diverged"):
        loop.step()
    for ours, theirs in zip(loop.everything(), before, strict=True):
        assert torch.equal(ours, theirs)


def test_in_float32_an_activation_that_is_not_finite_is_named_and_nothing_is_changed() -> None:
    loop = Loop(gradients_of_steps(1), scale=LossScale(), seen=INFINITE)
    masters = [value.detach().clone() for value in loop.model.parameters()]
    with pytest.raises(CalibrationError, match=r"activations at sites \[0\] are not finite: training has diverged"):
        loop.step()
    for ours, theirs in zip(loop.model.parameters(), masters, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("what", ["gradient", "activation"])
def test_in_float16_the_step_is_left_out_the_scale_falls_and_training_goes_on(what: str) -> None:
    first, broken, last = gradients_of_steps(3)
    if what == "gradient":
        broken["dense.weight"][0, 0] = INFINITE
    loop = Loop([first, broken, last], scale=LossScale(1024.0, 4.0, 1000))
    loop.step()
    before, ranges = loop.everything(), loop.state.ranges
    loop.engine._seen = INFINITE if what == "activation" else 2.0
    report = loop.step()
    assert not report.is_finite
    for ours, theirs in zip(loop.everything(), before, strict=True):
        assert torch.equal(ours, theirs)
    assert (loop.state.loss_scale.scale, loop.state.loss_scale.n_skipped) == (256.0, 1)
    assert loop.state.ranges is ranges
    # it counts as a step of the schedule, and its loss as none
    assert (loop.state.progress.step, loop.state.progress.loss_count) == (2, 1)
    loop.engine._seen = 2.0
    loop.step()
    assert_same_weights(loop.model, by_plain_torch([first, last]))


def test_observations_are_learned_from_until_ranges_are_frozen() -> None:
    loop = Loop(gradients_of_steps(2), scale=LossScale())
    loop.step()
    # decay 0.9: after 1.0 and 2.0 the average weighs them 0.09 and 0.1
    assert float(loop.state.ranges.amax()) == pytest.approx((0.09 * 1.0 + 0.1 * 2.0) / 0.19)
    loop.schedule = Schedule(**{**vars(loop.schedule), "freeze_ranges_from": 1})
    loop.step()
    assert loop.state.ranges.count == 2


@pytest.mark.parametrize("scale", [LossScale(), LossScale(1024.0, 2.0, 1000)], ids=["float32", "float16"])
def test_learned_ranges_take_steps_of_their_own_until_they_are_frozen(scale: LossScale) -> None:
    gradients = gradients_of_steps(4)
    loop = Loop(gradients, scale=scale)
    loop.schedule = Schedule(**{**vars(loop.schedule), "freeze_ranges_from": 3, "range_rate_ratio": 5.0})
    start = torch.tensor([3.0])
    loop.state = replace(loop.state, ranges=LearnedRanges.starting_at(start))
    theirs = nn.Parameter(start.double().log())
    optimizer = torch.optim.AdamW([theirs], lr=5 * RATE, weight_decay=0.0, eps=1e-12)
    for step, told in enumerate([0.2, -70.0, 3.0, 4.0]):  # as they are, clipped to no norm
        loop.engine.range_gradient = torch.tensor([told])
        theirs.grad = told * theirs.detach().exp()
        if step < 3:
            optimizer.step()
        loop.step()
        torch.testing.assert_close(loop.state.amax, theirs.detach().exp().float())
    assert loop.state.ranges.count == 3
    assert_same_weights(loop.model, by_plain_torch(gradients))  # the norm is of their gradients alone


def test_a_gradient_of_ranges_that_is_not_finite_leaves_the_step_out() -> None:
    loop = Loop(gradients_of_steps(3), scale=LossScale(1024.0, 4.0, 1000))
    loop.state = replace(loop.state, ranges=LearnedRanges.starting_at(torch.tensor([3.0])))
    loop.engine.range_gradient = torch.tensor([1.0])
    loop.step()
    before, ranges = loop.everything(), loop.state.ranges
    loop.engine.range_gradient = torch.tensor([NOT_A_NUMBER])
    assert not loop.step().is_finite
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loop.everything(), before, strict=True))
    assert loop.state.ranges is ranges
    assert loop.state.loss_scale.scale == 256.0
    loop.state = replace(loop.state, loss_scale=LossScale())
    with pytest.raises(CalibrationError, match="gradients are not finite at a loss scale of 1"):
        loop.step()


# ---- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_scale", [1.0, 512.0])
@pytest.mark.parametrize("norm", [0.2, 0.999, 1.0, 5.0, 1e6])
def test_what_gradients_are_divided_by_clips_them_as_torch_does(norm: float, loss_scale: float) -> None:
    gradient = torch.tensor([0.6, 0.0, -0.8]) * norm
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = gradient.clone()
    nn.utils.clip_grad_norm_([parameter], MAX_NORM)
    divisor = gradient_divisor(torch.tensor(norm), max_norm=MAX_NORM, loss_scale=loss_scale)
    torch.testing.assert_close(gradient * loss_scale / divisor, parameter.grad, rtol=1e-5, atol=0)


class MeanOfRows:
    """An engine whose loss is the mean of its rows' first ids times a weight of one number."""

    n_sites = 2

    def __init__(self, weights: TrainableWeights) -> None:
        self._weights = weights

    def step(self, batch: Batch, amax: Tensor | None, *, seed: int, loss_scale: float = 1.0) -> StepResult:
        values = batch.inputs["input_ids"][:, 0].float()
        self._weights.gradient[0] = values.mean() * loss_scale
        seen = torch.stack([values.max(), (-values).max()])
        return StepResult(values.mean(), {"logits": values}, seen, loss_scale * seen.new_tensor([1, 2]) * values.mean())


@pytest.mark.parametrize("sizes", [(7,), (4, 3), (3, 3, 1)])
def test_passes_of_any_sizes_have_the_mean_gradient_of_all_rows(sizes: tuple[int, ...]) -> None:
    weights = prepare_weights(nn.ModuleDict({"dense": nn.Linear(1, 1, bias=False)}), {}, ())
    values = torch.tensor([3, -5, 8, 1, 1, 0, 2])
    batches = [Batch({"input_ids": part[:, None]}, {}) for part in values.split(sizes)]
    result = mean_gradients(
        MeanOfRows(weights), weights, batches, n_rows=7, amax=None, seeds=range(len(sizes)), processes=Processes(),
        loss_scale=8.0, learns_ranges=True,
    )  # fmt: skip
    assert result.range_gradient.tolist() == pytest.approx([8 * 10 / 7, 16 * 10 / 7])
    assert float(result.loss) == pytest.approx(10 / 7)
    assert float(weights.gradient[0]) == pytest.approx(8 * 10 / 7)
    assert result.observations.tolist() == [8.0, 5.0]
