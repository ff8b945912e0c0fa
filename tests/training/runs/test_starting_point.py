"""What a run starts from: runs and checkpoints of q8bert, with their ranges where these are wanted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from q8bert.spec.errors import CheckpointError, ConfigError, ModelError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.quantization.learned_ranges import LearnedRanges
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint
from q8bert.training.runs.preparation import prepare
from q8bert.training.runs.run_folder import best_checkpoint

CPU = torch.device("cpu")
# of next to nothing, so that weights stay where they are
STILL = 1e-30


def config(small: Any, output_dir: Path, model: Path, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data_dir": str(small.data("SST-2")), "engine": "torch", "batch_size": 32, "max_length": 32, "threads": 1,
        "quantize_from": 0.0, "calibration_batches": 2, "max_steps": 2, "learning_rate": STILL, "weight_decay": 0.0,
    }  # fmt: skip
    return TrainConfig.from_options(
        task=glue_task("SST-2"), output_dir=output_dir, model=str(model), **(values | options)
    )


def test_a_run_is_started_from_by_its_folder_and_that_of_its_best_checkpoint(small: Any, tmp_path: Path) -> None:
    run = small.run("SST-2", "float32")
    best, told = best_checkpoint(run), list[str]()
    result = train(config(small, tmp_path / "a", run, quantize=False), report=told.append)
    assert f"starting from the best checkpoint of {run}, of step {best.progress.step}" in told
    assert result.metrics["accuracy"] == best.progress.metrics["accuracy"]
    weights = load_file(checkpoint_folders(tmp_path / "a")[2] / "model.safetensors")
    for name, weight in best.weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6)
    by_folder = train(config(small, tmp_path / "b", best.path, quantize=False))
    assert by_folder.metrics == result.metrics


def test_ranges_smoothing_and_zero_points_of_a_quantized_run_are_taken_where_asked(small: Any, tmp_path: Path) -> None:
    run = small.run("SST-2", "int8")
    best, told = best_checkpoint(run), list[str]()
    given = prepare(config(small, tmp_path / "run", run, grids_from="model"), CPU, told.append)
    assert given.grids is not None
    assert [(site.smoothing, site.zero_point) for site in given.grids.sites] == [
        (site.smoothing, site.zero_point) for site in best.sites
    ]
    assert any(site.smoothing for site in best.sites), "there is something to take"
    torch.testing.assert_close(given.grids.ranges.amax(), best.ranges.amax(), rtol=1e-6, atol=0)

    first = train(config(small, tmp_path / "run", run, grids_from="model"), report=told.append)
    assert f"quantization starts with the ranges, smoothing and zero points of {run}" in told
    # the same weights on the same grids, so the same scores but for two steps of the moving average
    assert first.metrics["accuracy"] == pytest.approx(best.progress.metrics["accuracy"], abs=0.01)
    kept = load_checkpoint(checkpoint_folders(tmp_path / "run")[2])
    assert [site.smoothing for site in kept.sites] == [site.smoothing for site in best.sites]
    torch.testing.assert_close(kept.ranges.amax(), best.ranges.amax(), rtol=0.1, atol=0)
    assert not torch.equal(kept.ranges.amax(), best.ranges.amax()), "they move on"


def test_without_being_asked_ranges_are_calibrated_and_that_is_said(small: Any, tmp_path: Path) -> None:
    told: list[str] = []
    given = prepare(config(small, tmp_path / "run", small.run("SST-2", "int8")), CPU, told.append)
    assert given.grids is None
    assert any(line.startswith("note: the model was trained quantized; its weights are taken") for line in told)
    by_folder: list[str] = []
    checkpoint = best_checkpoint(small.run("SST-2", "int8")).path
    prepare(config(small, tmp_path / "run", checkpoint), CPU, by_folder.append)
    assert any("--grids-from model takes its own" in line for line in by_folder)
    twin: list[str] = []
    prepare(config(small, tmp_path / "run", checkpoint, quantize=False), CPU, twin.append)
    assert not any("--grids-from" in line for line in twin), "a float run has no ranges"


@pytest.mark.parametrize("ranges", ["learned", "percentile", "ema"])
def test_taken_ranges_go_on_as_the_run_says(small: Any, tmp_path: Path, ranges: str) -> None:
    run = small.run("SST-2", "int8")
    best = best_checkpoint(run).ranges.amax()
    train(config(small, tmp_path / "run", run, grids_from="model", ranges=ranges))
    kept = load_checkpoint(checkpoint_folders(tmp_path / "run")[2]).ranges
    assert isinstance(kept, LearnedRanges if ranges == "learned" else RangeState)
    tolerance = {"learned": 1e-6, "percentile": 1e-6, "ema": 0.1}[ranges]  # the first two stand still here
    torch.testing.assert_close(kept.amax(), best, rtol=tolerance, atol=0)


def test_an_interrupted_run_with_taken_ranges_goes_on_and_knows_others(small: Any, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(step: int, *_: Any) -> None:
        if step == 2:
            raise StoppedError

    source = tmp_path / "source"
    shutil.copytree(small.run("SST-2", "int8"), source)
    options: dict[str, Any] = {"grids_from": "model", "max_steps": 3, "save_every": 1, "learning_rate": 1e-3}
    whole = train(config(small, tmp_path / "whole", source, **options))
    with pytest.raises(StoppedError):
        train(config(small, tmp_path / "cut", source, **options), show_step=stop)
    assert train(config(small, tmp_path / "cut", source, **options)).metrics == whole.metrics
    states = [load_checkpoint(checkpoint_folders(tmp_path / name)[3]).ranges.amax() for name in ("whole", "cut")]
    assert torch.equal(*states)
    assert "grids" in json.loads((tmp_path / "cut" / "run.json").read_text())["inputs"]

    # the same weights with other ranges are another start
    for folder in checkpoint_folders(source).values():
        state = json.loads((folder / "state.json").read_text())
        state["sites"][0]["zero_point"] = 4 if state["sites"][0]["zero_point"] != 4 else 6
        (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"other ranges or smoothing than .*source has"):
        train(config(small, tmp_path / "cut", source, **options))


def test_grids_that_cannot_be_taken_are_refused(small: Any, tmp_path: Path) -> None:
    run = small.run("SST-2", "int8")
    wanted = {"grids_from": "model"}
    with pytest.raises(ConfigError, match="has none: it is no quantized run or checkpoint"):
        train(config(small, tmp_path / "run", small.model, **wanted))
    with pytest.raises(ConfigError, match="has none: it is no quantized run or checkpoint"):
        train(config(small, tmp_path / "run", small.run("SST-2", "float32"), **wanted))
    with pytest.raises(ModelError, match=r"quantizes other activations \(\d+\) than this run would"):
        train(config(small, tmp_path / "run", run, keep_float=("classifier",), **wanted))
    with pytest.raises(ModelError, match="was trained with smoothing, which --no-smoothing refuses"):
        train(config(small, tmp_path / "run", run, smoothing=False, **wanted))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="grids_from model is of quantized runs, but quantize is False"):
        config(small, tmp_path / "run", run, quantize=False, **wanted)
    with pytest.raises(ConfigError, match=r"quantize_from \(0.5\) lets them be trained in float first"):
        config(small, tmp_path / "run", run, quantize_from=0.5, **wanted)


def test_a_run_without_a_checkpoint_cannot_be_started_from(small: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(small.run("SST-2", "int8"), source)
    shutil.rmtree(source / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        train(config(small, tmp_path / "run", source))


def test_a_moving_average_holds_what_it_is_given() -> None:
    amax = torch.tensor([0.5, 3.0])
    for count, decay in ((1, 0.99), (7, 0.9), (1000, 0.9999), (3, 0.0)):
        held = RangeState.holding(amax, count=count, decay=decay)
        torch.testing.assert_close(held.amax(), amax)
        observed = RangeState.empty(2, decay=decay)
        for _ in range(count):
            observed = observed.observe(amax)
        torch.testing.assert_close(held.average, observed.average)
