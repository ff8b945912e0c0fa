"""Float steps taken from another run: the same run to the last bit, and refused where they are not the run's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from q8bert.spec.errors import CheckpointError, ConfigError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint

TIMES = {"seconds", "seconds_per_step", "rows_per_second"}


class StoppedError(Exception):
    """Stands for a crash."""


def config(small: Any, output_dir: Path, **options: Any) -> TrainConfig:
    """Return options of a run of two epochs of 19 steps, of which the first is float."""
    values: dict[str, Any] = {
        "data_dir": str(small.data("SST-2")), "model": str(small.model), "engine": "torch", "epochs": 2,
        "batch_size": 32, "learning_rate": 1e-3, "max_length": 32, "threads": 1, "log_every": 5, "dropout": 0.1,
        "keep_checkpoints": 2,
    }  # fmt: skip
    return TrainConfig.from_options(task=glue_task("SST-2"), output_dir=output_dir, **(values | options))


def later_events(run: Path) -> list[dict[str, Any]]:
    """Return what the log says of the quantized steps, but for clocks and what was found in the model."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in lines
        if line["step"] > 19 and line["event"] != "source"
    ]


@pytest.fixture(scope="module")
def twin(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "twin"
    train(config(small, run, quantize=False))
    return run


def assert_same_end(found: Path, expected: Path) -> None:
    ends = [checkpoint_folders(run)[38] for run in (found, expected)]
    for file in ("model.safetensors", "optimizer.safetensors", "ranges.safetensors"):
        tensors = [load_file(folder / file) for folder in ends]
        assert tensors[0].keys() == tensors[1].keys()
        for name, tensor in tensors[0].items():
            assert torch.equal(tensor, tensors[1][name]), (file, name)
    checkpoints = [load_checkpoint(folder) for folder in ends]
    assert checkpoints[0].sites == checkpoints[1].sites
    assert checkpoints[0].progress.best_step == checkpoints[1].progress.best_step
    assert checkpoints[0].progress.metrics == checkpoints[1].progress.metrics
    assert later_events(found) == later_events(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"teacher": "twin", "ranges": "learned"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"quantized_learning_rate": 5e-4, "average_weights": 0.3}, marks=pytest.mark.slow),
    ],
)
def test_a_run_on_the_twins_float_steps_ends_as_one_that_trained_them(
    small: Any, twin: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, told = tmp_path / "whole", list[str]()
    train(config(small, whole, **options))
    result = train(config(small, tmp_path / "run", float_steps_from=twin, **options), report=told.append)
    assert f"the first 19 steps are those of {twin}, in float as they are here" in told
    assert_same_end(tmp_path / "run", whole)
    assert result.best_step == 38
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert min(steps) == 20, "it took no others"


@pytest.mark.slow
def test_on_onnx_runtime_a_twin_goes_on_from_a_quantized_runs_float_steps(small: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"engine": "ort", "dropout": 0.0}
    train(config(small, tmp_path / "quantized", **options))
    train(config(small, tmp_path / "whole", quantize=False, **options))
    train(config(small, tmp_path / "run", quantize=False, float_steps_from=tmp_path / "quantized", **options))
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_an_interrupted_run_needs_the_other_run_no_more(small: Any, twin: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def stop_at(wanted: int) -> Any:
        def stop(step: int, *_: Any) -> None:
            if step == wanted:
                raise StoppedError

        return stop

    for step in (22, 33):  # before its first checkpoint, and after it
        with pytest.raises(StoppedError):
            train(config(small, run, float_steps_from=twin, save_every=30), show_step=stop_at(step))
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "source"] == [20]
    train(config(small, run, save_every=30, float_steps_from=tmp_path / "gone"))
    train(config(small, tmp_path / "whole", save_every=30))
    assert_same_end(run, tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 12}, r"other options \(seed 11 there, 12 asked\)"),
        ({"learning_rate": 2e-3}, r"other options \(learning_rate 0.001 there, 0.002 asked\)"),
        ({"epochs": 3}, r"other options \(epochs 2 there, 3 asked\)"),
        ({"quantize_from": 0.7, "quantized_learning_rate": 1e-4}, r"has no checkpoint of step 26, .* \(it has those of "
         r"19, 38\)\. Train it again with --save-every 26 --keep-checkpoints 2$"),
    ],
)  # fmt: skip
def test_other_steps_than_the_runs_are_refused_and_nothing_is_made(
    small: Any, twin: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        train(config(small, tmp_path / "run", float_steps_from=twin, **options))
    assert not (tmp_path / "run" / "run.json").exists()


def test_steps_at_another_rate_or_quantized_already_are_refused(small: Any, tmp_path: Path) -> None:
    early = tmp_path / "early"
    train(config(small, early, quantize_from=0.25, quantized_learning_rate=1e-4, max_steps=20, save_every=10))
    with pytest.raises(CheckpointError, match=r"quantized steps from step 5 on, and this run float ones until step 10, "
                       r"another learning rate at step 6 \(0\.0001, here 0\.0008"):  # fmt: skip
        train(config(small, tmp_path / "run", max_steps=20, float_steps_from=early))


def test_other_rows_are_refused(small: Any, twin: Path, tmp_path: Path) -> None:
    rows = (Path(small.data("SST-2")) / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train.tsv").write_text("".join(rows[:-1]), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"it has other training rows than .*train\.tsv has"):
        train(config(small, tmp_path / "run", float_steps_from=twin, train_file=str(tmp_path / "train.tsv")))


def test_what_cannot_be_gone_on_with_is_refused_in_time(small: Any, twin: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quantization starts at step 0, before which there are none"):
        train(config(small, tmp_path / "run", float_steps_from=twin, quantize_from=0.0))
    with pytest.raises(ConfigError, match="float_steps_from is output_dir"):
        config(small, twin, float_steps_from=twin)
    with pytest.raises(CheckpointError, match="is not the folder of a training run"):
        train(config(small, tmp_path / "run", float_steps_from=tmp_path / "nothing"))
    before = sorted(path.name for path in (twin / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match="is not the folder of a training run"):
        train(config(small, twin, float_steps_from=tmp_path / "nothing"), overwrite=True)
    assert sorted(path.name for path in (twin / "checkpoints").iterdir()) == before, "nothing was deleted"


def test_a_checkpoint_that_was_deleted_since_is_named_with_the_remedy(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "short"
    train(config(small, run, quantize=False, epochs=4, keep_checkpoints=1))
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 38, .*Train it again with --keep-checkpoints 3$"):
        train(config(small, tmp_path / "run", epochs=4, float_steps_from=run))
