"""Each option that users of the seed know changes what is learned; and what is said of it in the log."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders


def config(small: Any, output_dir: Path, **options: Any) -> TrainConfig:
    """Options of a run of three steps, the second and third of which are quantized."""
    values: dict[str, Any] = {
        "data_dir": str(small.data("SST-2")), "model": str(small.model), "engine": "torch", "max_steps": 3,
        "batch_size": 8, "learning_rate": 1e-3, "max_length": 32, "threads": 1, "quantize_from": 0.34,
        "calibration_batches": 1, "evaluate": False, "log_every": 1,
    }  # fmt: skip
    return TrainConfig.from_options(task=glue_task("SST-2"), output_dir=output_dir, **(values | options))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max(checkpoint_folders(run).values()) / "model.safetensors")


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.fixture(scope="module")
def plain(small: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    run = tmp_path_factory.mktemp("plain") / "run"
    train(config(small, run))
    return weights(run)


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 2}, {"shuffle": False}, {"seed": 1}, {"batch_size": 4}, {"gradient_accumulation": 2},
        {"max_length": 8}, {"learning_rate": 2e-3}, {"end_learning_rate": 5e-4}, {"decay_power": 2.0},
        {"weight_decay": 0.5}, {"adam_beta1": 0.5}, {"adam_beta2": 0.5}, {"adam_epsilon": 1e-3}, {"warmup_ratio": 0.7},
        {"warmup_steps": 2}, {"max_grad_norm": 1e-3, "adam_epsilon": 1e-2}, {"dropout": 0.2}, {"hidden_dropout": 0.2},
        {"attention_dropout": 0.2}, {"quantize": False}, {"granularity": "per_tensor"},
        {"table_granularity": "per_tensor"}, {"ranges": "learned"}, {"keep_float": ("classifier",)}, {"layers": 1},
        {"from_scratch": True}, {"from_scratch": True, "initializer_range": 0.3},
        {"from_scratch": True, "heads": 4}, {"from_scratch": True, "intermediate_size": 48},
        {"from_scratch": True, "hidden_size": 16}, {"from_scratch": True, "max_positions": 40},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)  # fmt: skip
def test_an_option_changes_what_is_learned(
    small: Any, plain: dict[str, torch.Tensor], tmp_path: Path, options: dict[str, Any]
) -> None:
    train(config(small, tmp_path / "run", **options))
    found = weights(tmp_path / "run")
    assert found.keys() != plain.keys() or any(
        tensor.shape != plain[name].shape or not torch.equal(tensor, plain[name]) for name, tensor in found.items()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"evaluate": True}, {"eval_every": 2, "evaluate": True}, {"eval_batch_size": 7}, {"save_every": 1},
        {"keep_checkpoints": 1}, {"log_every": 3},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)  # fmt: skip
def test_what_is_scored_saved_and_logged_changes_nothing_that_is_learned(
    small: Any, plain: dict[str, torch.Tensor], tmp_path: Path, options: dict[str, Any]
) -> None:
    train(config(small, tmp_path / "run", **options))
    found = weights(tmp_path / "run")
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())


def test_a_run_without_evaluations_ends_with_one_and_keeps_what_an_epoch_learned(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(config(small, run, epochs=2, max_steps=0, batch_size=200, keep_checkpoints=9))
    assert [event["step"] for event in events(run, "dev")] == [6]
    assert list(checkpoint_folders(run)) == [2, 3, 6]  # 600 rows: three steps an epoch; quantized after two
    assert (result.best_step, result.metrics) == (6, result.last_metrics)


def test_without_shuffling_rows_are_taken_as_they_stand_in_every_epoch(small: Any) -> None:
    from q8bert.training.runs.preparation import prepare

    def steps(shuffle: bool) -> list[list[int]]:
        given = prepare(config(small, Path("none"), shuffle=shuffle), torch.device("cpu"), lambda _: None)
        found = given.train.training_steps(250, seed=3, start=1)
        return [next(found).tolist() for _ in range(4)]

    assert steps(shuffle=False) == [
        list(range(250, 500)), list(range(500, 600)), list(range(250)), list(range(250, 500)),
    ]  # fmt: skip
    shuffled = steps(shuffle=True)
    assert sorted(row for step in shuffled[:2] for row in step) != list(range(250, 600))


# ---- the log -------------------------------------------------------------------------------------


def test_the_log_has_the_mean_loss_of_each_interval_and_the_times_of_steps_and_epochs(
    small: Any, tmp_path: Path
) -> None:
    single, run, told = tmp_path / "single", tmp_path / "run", list[str]()
    options: dict[str, Any] = {"max_steps": 11, "batch_size": 120, "evaluate": True, "eval_every": 4}
    train(config(small, single, **options))
    result = train(config(small, run, log_every=3, **options), report=told.append)
    losses = [event["loss"] for event in events(single, "train")]
    lines = events(run, "train")
    assert [(line["step"], line["n_steps"]) for line in lines] == [(3, 3), (6, 3), (9, 3), (11, 2)]
    means = [np.mean(losses[start:stop]) for start, stop in ((0, 3), (3, 6), (6, 9), (9, 11))]
    assert [line["loss"] for line in lines] == pytest.approx(means)
    for line in lines:
        # rows a second and seconds a step are of the same steps: 120 rows each
        assert line["rows_per_second"] * line["seconds_per_step"] == pytest.approx(120, rel=1e-2)

    epochs = events(run, "epoch")  # 600 rows: five steps each
    assert [(line["step"], line["epoch"], line["n_steps"]) for line in epochs] == [
        (5, 1.0, 5),
        (10, 2.0, 5),
        (11, 2.2, 1),
    ]
    assert [line["loss"] for line in epochs] == pytest.approx([np.mean(losses[:5]), np.mean(losses[5:10]), losses[10]])
    for line in epochs:
        assert line["seconds"] == pytest.approx(line["seconds_per_step"] * line["n_steps"], abs=2e-3)
    best = [(line["best_step"], line.get("best")) for line in events(run, "dev")]
    assert best[-1] == (result.best_step, result.metrics["accuracy"])

    assert [line for line in told if line.startswith("step 3/11, epoch 0.6: loss ")], told
    (first,) = [line for line in told if line.startswith("epoch 1: 5 steps in ")]
    assert first.endswith(" rows/s")
    assert f"loss {epochs[0]['loss']:.4f}" in first
    scored = [line for line in told if ", dev: accuracy " in line]
    assert len(scored) == 3
    assert all("best so far" in line for line in scored[1:])

    curves = EventAccumulator(str(run / "tensorboard"))
    curves.Reload()
    assert {
        "train/loss", "train/seconds_per_step", "train/rows_per_second", "epoch/seconds", "dev/accuracy", "dev/best",
    } <= set(curves.Tags()["scalars"])  # fmt: skip
    assert [point.value for point in curves.Scalars("train/loss")] == pytest.approx(means)


def test_times_are_of_training_alone(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only evaluation and saving move: steps take none of it."""
    from q8bert.training import run as run_module
    from q8bert.training.loop import trainer

    now = [0.0]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now[0])

    def slowly(function: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            now[0] += 1000.0
            return function(*args, **options)

        return run

    monkeypatch.setattr(trainer, "evaluate_split", slowly(trainer.evaluate_split))
    monkeypatch.setattr(run_module, "save_checkpoint", slowly(run_module.save_checkpoint))
    monkeypatch.setattr(trainer, "take_step", _taking(now, trainer.take_step, seconds=0.25))
    run = tmp_path / "run"
    train(config(small, run, evaluate=True, max_steps=4, eval_every=1, save_every=1))
    assert [line["seconds_per_step"] for line in events(run, "train")] == [0.25] * 4
    assert [line["rows_per_second"] for line in events(run, "train")] == [32.0] * 4
    assert [line["seconds"] for line in events(run, "epoch")] == [1.0]
    assert [line["seconds"] for line in events(run, "dev")] == [1000.0] * 4


def _taking(now: list[float], function: Any, *, seconds: float) -> Any:
    def run(*args: Any, **options: Any) -> Any:
        now[0] += seconds
        return function(*args, **options)

    return run


def test_a_run_that_is_gone_on_with_counts_the_time_of_its_first_part(small: Any, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(step: int, *_: Any) -> None:
        if step == 4:
            raise StoppedError

    run = tmp_path / "run"
    options: dict[str, Any] = {"max_steps": 5, "batch_size": 120, "save_every": 1, "log_every": 5}
    with pytest.raises(StoppedError):
        train(config(small, run, **options), show_step=stop)
    train(config(small, run, **options))
    (interval,), (epoch,) = events(run, "train"), events(run, "epoch")
    assert (interval["n_steps"], epoch["n_steps"]) == (5, 5)
    train(config(small, tmp_path / "whole", **options))
    assert interval["loss"] == pytest.approx(events(tmp_path / "whole", "train")[0]["loss"], abs=1e-9)
