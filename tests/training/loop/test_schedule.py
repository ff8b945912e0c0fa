"""When what happens: shares of a run as steps, the same for both twins."""

from typing import Any

import pytest
import torch

from q8bert.spec.errors import ConfigError
from q8bert.text.encoded import Encoded, Rows
from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.config import EvaluationConfig, OptimizationConfig, RecordConfig
from q8bert.training.loop.schedule import Schedule, make_schedule
from q8bert.training.quantization.config import QuantizationConfig


def schedule(
    *,
    quantize: bool = True,
    quantize_from: float = 0.5,
    evaluation: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    **optimization: Any,
) -> Schedule:
    """Return the schedule for 40 rows, ten steps an epoch."""
    ids = Rows.of([[1]] * 40)
    return make_schedule(
        TokenizedSplit(Encoded(ids, ids), torch.arange(40), ("input_ids",), 0),
        optimization=OptimizationConfig(**({"epochs": 4, "batch_size": 4} | optimization)),
        evaluation=EvaluationConfig(**(evaluation or {})),
        record=RecordConfig(**(record or {})),
        quantization=QuantizationConfig(quantize=quantize, quantize_from=quantize_from),
        seed=0,
        n_processes=1,
    )


def candidates(given: Schedule) -> list[int]:
    return [step for step in range(1, given.n_steps + 1) if given.is_evaluated(step) and given.counts(step)]


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [30, 40]),
        ({"quantize_from": 0.25}, [20, 30, 40]),
        ({"quantize_from": 0.0}, [10, 20, 30, 40]),
        ({"evaluation": {"candidates": 1}}, [40]),
        ({"evaluation": {"candidates": 2}}, [30, 40]),
        ({"evaluation": {"candidates": 3, "eval_every": 6}}, [30, 36, 40]),
    ],
)
def test_twins_choose_the_best_among_the_same_evaluations(
    quantize: bool, options: dict[str, Any], expected: list[int]
) -> None:
    given = schedule(quantize=quantize, **options)
    assert candidates(given) == expected
    assert given.is_quantized(39) is quantize
    assert given.phases == ((given.quantize_from, 40) if quantize else (40,))


@pytest.mark.parametrize("quantize", [True, False])
def test_more_candidates_than_there_are_evaluations_are_refused(quantize: bool) -> None:
    with pytest.raises(ConfigError, match="candidates is 3, but only 2 evaluations come after step 20 of 40"):
        schedule(quantize=quantize, evaluation={"candidates": 3})


@pytest.mark.parametrize("quantize", [True, False])
def test_quantized_steps_may_have_a_warm_up_and_a_decay_of_their_own(quantize: bool) -> None:
    own = schedule(
        quantize=quantize, quantize_from=0.6, learning_rate=1.0, quantized_learning_rate=0.5, quantized_warmup_ratio=0.25,
        warmup_ratio=0.1, end_learning_rate=0.1,
    )  # fmt: skip
    # 24 steps of one schedule over 40, with four of warm-up; then 16 of their own, four of which warm up too
    expected = [(step + 1) / 4 for step in range(4)] + [0.9 * (1 - (step - 4) / 36) + 0.1 for step in range(4, 24)]
    expected += [0.5 * (step + 1) / 4 for step in range(4)] + [0.4 * (1 - step / 12) + 0.1 for step in range(12)]
    assert [own.learning_rate(step) for step in range(40)] == pytest.approx(expected)
    assert own.learning_rate(40) == pytest.approx(0.1)
    plain = schedule(quantize=quantize, quantize_from=0.6, learning_rate=1.0, warmup_ratio=0.1, end_learning_rate=0.1)
    assert [plain.learning_rate(step) for step in range(24)] == [own.learning_rate(step) for step in range(24)]
    assert plain.learning_rate(30) == pytest.approx(0.9 * (1 - 26 / 36) + 0.1)


def test_the_last_steps_are_averaged() -> None:
    assert schedule().average_from is None
    given = schedule(average_weights=0.2)
    assert [step for step in range(41) if given.is_averaged(step)] == list(range(33, 41))
    tiny = schedule(average_weights=0.001)
    assert [step for step in range(41) if tiny.is_averaged(step)] == [40]


def test_without_evaluations_the_dev_split_is_scored_after_the_last_step_alone() -> None:
    given = schedule(evaluation={"evaluate": False})
    steps = range(1, 41)
    assert [step for step in steps if given.is_evaluated(step)] == [40]
    assert candidates(given) == [40]
    assert [step for step in steps if given.is_saved(step)] == [10, 20, 30, 40], "nothing of an epoch is lost"
    often = schedule(evaluation={"evaluate": False}, record={"save_every": 15})
    # one is between float and quantized steps
    assert [step for step in steps if often.is_saved(step)] == [15, 20, 30, 40]


@pytest.mark.parametrize("options", [{"eval_every": 5}, {"patience": 2}, {"candidates": 2}])
def test_what_needs_evaluations_is_refused_without_them(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=rf"{name} \({options[name]}\) is of evaluations .* evaluate is False"):
        EvaluationConfig(evaluate=False, **options)
    assert EvaluationConfig(evaluate=False, candidates=1).candidates == 1


def test_a_warm_up_of_steps_is_one_of_the_share_that_they_are() -> None:
    rates = [schedule(warmup_steps=12).learning_rate(step) for step in range(40)]
    assert rates == [schedule(warmup_ratio=0.3).learning_rate(step) for step in range(40)]
    assert rates[:3] == pytest.approx([1e-4 / 12, 2e-4 / 12, 3e-4 / 12])
    assert schedule(warmup_steps=0).learning_rate(0) == 1e-4


def test_a_warm_up_that_never_ends_or_is_said_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"warmup_steps \(40\) is not below the 40 steps of the run"):
        schedule(warmup_steps=40)
    with pytest.raises(ConfigError, match=r"warmup_steps \(3\) and warmup_ratio \(0.2\) both say"):
        OptimizationConfig(warmup_steps=3, warmup_ratio=0.2)


def test_lines_of_the_log_and_ends_of_epochs_come_at_their_steps_and_at_the_end() -> None:
    given = schedule(max_steps=25, record={"log_every": 10})
    assert [step for step in range(1, 26) if given.is_logged(step)] == [10, 20, 25]
    assert [step for step in range(1, 26) if given.ends_epoch(step)] == [10, 20, 25]
