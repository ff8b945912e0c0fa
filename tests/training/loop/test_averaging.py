"""The mean of the last weights: numpy's, quantized and evaluated, and the same after an interruption."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from q8bert.spec.errors import CheckpointError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.loop.trainer import evaluate_split
from q8bert.training.objectives.objective import Classification
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint
from q8bert.training.runs.checkpoints.resume import copy_weights
from q8bert.training.runs.preparation import prepare


class StoppedError(Exception):
    """Stands for a crash."""


def config(small: Any, output_dir: Path, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data_dir": str(small.data("SST-2")), "model": str(small.model), "engine": "torch", "max_steps": 10,
        "batch_size": 16, "learning_rate": 3e-3, "max_length": 32, "threads": 1, "quantize_from": 0.3, "eval_every": 5,
        "save_every": 1, "keep_checkpoints": 10, "calibration_batches": 1, "average_weights": 0.4,
    }  # fmt: skip
    return TrainConfig.from_options(task=glue_task("SST-2"), output_dir=output_dir, **(values | options))


def weights_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_folders(run)[step] / "model.safetensors")


def test_the_last_checkpoint_is_the_mean_and_scored_as_it_is_quantized(small: Any, tmp_path: Path) -> None:
    averaged, plain = config(small, tmp_path / "averaged"), config(small, tmp_path / "plain", average_weights=0.0)
    said: list[str] = []
    result = train(averaged, report=said.append)
    train(plain)
    for step in (6, 9):  # the mean leaves training alone
        for name, weight in weights_of(tmp_path / "plain", step).items():
            assert torch.equal(weights_of(tmp_path / "averaged", step)[name], weight)
    ours = weights_of(tmp_path / "averaged", 10)
    taken = [weights_of(tmp_path / "plain", step) for step in (7, 8, 9, 10)]
    for name, weight in ours.items():
        expected = np.mean([weights[name].double().numpy() for weights in taken], axis=0)
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert any("mean of the weights of 4 steps" in line for line in said)

    checkpoint = load_checkpoint(checkpoint_folders(tmp_path / "averaged")[10])
    given = prepare(averaged, torch.device("cpu"), lambda _: None)
    copy_weights(given.source.model, checkpoint)
    weights = prepare_weights(
        given.source.model, quantized_parameters(given.source.model, per_channel=True), checkpoint.sites
    )
    engine = TorchEngine(given.source.model, checkpoint.sites, weights, Classification())
    scores = evaluate_split(engine, given.dev, averaged.task, checkpoint.ranges.amax(), batch_size=64)
    assert scores == result.last_metrics
    assert checkpoint.average == {}


@pytest.mark.parametrize("stopped_at", [6, 9])
def test_an_interrupted_mean_ends_as_one_never_interrupted(small: Any, tmp_path: Path, stopped_at: int) -> None:
    expected = train(config(small, tmp_path / "whole"))

    def stop(step: int, *_: Any) -> None:
        if step == stopped_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config(small, tmp_path / "cut"), show_step=stop)
    assert train(config(small, tmp_path / "cut")).last_metrics == expected.last_metrics
    for name, weight in weights_of(tmp_path / "whole", 10).items():
        assert torch.equal(weights_of(tmp_path / "cut", 10)[name], weight), name


def test_a_checkpoint_that_lost_its_mean_is_no_start(small: Any, tmp_path: Path) -> None:
    def stop(step: int, *_: Any) -> None:
        if step == 9:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config(small, tmp_path / "run"), show_step=stop)
    folder = checkpoint_folders(tmp_path / "run")[8]
    (folder / "average.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"average\.safetensors cannot be used .*The one of step 7 is whole"):
        train(config(small, tmp_path / "run"))
    state = json.loads((folder / "state.json").read_text())
    del state["files"]["average.safetensors"]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="has no mean of this model's weights"):
        train(config(small, tmp_path / "run"))
