"""A run that learns from its own float twin: what is kept, and that it ends the same however often it was killed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from q8bert.data.readers import read_split
from q8bert.spec.errors import CheckpointError, ConfigError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.objectives.target_scale import read_target_scale
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders

Make = Callable[..., TrainConfig]


class StoppedError(Exception):
    """Stands for a crash."""


def stopped_at(at: int) -> Callable[..., None]:
    def stop(step: int, *_: Any) -> None:
        if step == at:
            raise StoppedError

    return stop


def losses(run: Path) -> list[float]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "train"]


def outputs_of(run: Path) -> torch.Tensor:
    return load_file(run / "teacher.safetensors")["outputs"]


def test_the_twin_is_the_float_model_where_quantization_starts(
    small: Any, config: Make, tmp_path: Path, by_transformers: Callable[..., torch.Tensor]
) -> None:
    said: list[str] = []
    train(config(tmp_path / "taught", teacher="twin"), report=said.append)
    train(config(tmp_path / "plain"))
    ours, plain = losses(tmp_path / "taught"), losses(tmp_path / "plain")
    assert ours[:4] == plain[:4]
    assert ours[4] != plain[4]
    folder = checkpoint_folders(tmp_path / "taught")[4]
    expected = by_transformers(folder, folder)
    torch.testing.assert_close(outputs_of(tmp_path / "taught")[:60], expected, rtol=0, atol=1e-5)
    kept = outputs_of(tmp_path / "taught").numpy()
    labels = read_split(glue_task("SST-2"), str(small.data("SST-2")), "train").labels()
    accuracy = np.mean(kept.argmax(axis=1) == np.array(labels))
    assert f"the float twin on the training rows: accuracy {accuracy:.4f}" in said
    assert said.count("the float twin is asked for its outputs for 600 training rows") == 1


def test_scores_of_a_twin_are_kept_in_the_units_of_the_data(
    config: Make, tmp_path: Path, by_transformers: Callable[..., torch.Tensor]
) -> None:
    train(config(tmp_path / "run", task="STS-B", teacher="twin"))
    folder = checkpoint_folders(tmp_path / "run")[4]
    scale = read_target_scale(json.loads((folder / "config.json").read_text()))
    expected = scale.mean + scale.std * by_transformers(folder, folder, task="STS-B")
    assert scale.std != 1
    torch.testing.assert_close(outputs_of(tmp_path / "run")[:60], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ["torch", pytest.param("ort", marks=pytest.mark.slow)])
def test_a_teacher_without_weight_changes_nothing(
    config: Make, tmp_path: Path, engine: str, assert_same_runs: Callable[[Path, Path], None]
) -> None:
    train(config(tmp_path / "taught", engine=engine, teacher="twin", teacher_weight=0.0))
    train(config(tmp_path / "plain", engine=engine))
    assert_same_runs(tmp_path / "taught", tmp_path / "plain")


@pytest.mark.parametrize(
    ("engine", "task", "stops"),
    [
        ("torch", "SST-2", (3, 5, 8)),
        ("torch", "STS-B", (6,)),
        pytest.param("ort", "SST-2", (5, 8), marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_as_one_never_interrupted(
    config: Make, tmp_path: Path, engine: str, task: str, stops: tuple[int, ...],
    assert_same_runs: Callable[[Path, Path], None],
) -> None:  # fmt: skip
    options = {"engine": engine, "task": task, "teacher": "twin", "teacher_weight": 0.7, "gradient_accumulation": 2}
    expected = train(config(tmp_path / "whole", **options))
    for at in stops:
        with pytest.raises(StoppedError):
            train(config(tmp_path / "cut", **options), show_step=stopped_at(at))
    result = train(config(tmp_path / "cut", **options))
    assert (result.metrics, result.last_metrics) == (expected.metrics, expected.last_metrics)
    assert_same_runs(tmp_path / "cut", tmp_path / "whole")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert torch.equal(outputs_of(tmp_path / "cut"), outputs_of(tmp_path / "whole"))


@pytest.fixture
def stopped(config: Make, tmp_path: Path) -> Path:
    """A run that was stopped in its quantized half."""
    with pytest.raises(StoppedError):
        train(config(tmp_path / "run", teacher="twin"), show_step=stopped_at(8))
    return tmp_path / "run"


def other_numbers(path: Path) -> None:
    save_file({"outputs": load_file(path)["outputs"].flip(0)}, path)


def other_name(path: Path) -> None:
    save_file({"logits": load_file(path)["outputs"]}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing, from which this run learned so far"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (other_name, "is damaged"),
        (other_numbers, "is not the file that this run learned from so far"),
    ],
)
def test_what_the_twin_said_cannot_be_had_again(
    config: Make, stopped: Path, damage: Callable[[Path], None], message: str
) -> None:
    before = sorted(path.name for path in (stopped / "checkpoints").iterdir())
    damage(stopped / "teacher.safetensors")
    with pytest.raises(
        CheckpointError, match=rf"teacher\.safetensors {message}.*Put it back as it was, or start again"
    ):
        train(config(stopped, teacher="twin"))
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == before


def test_the_file_of_another_run_is_told(config: Make, stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(config(tmp_path / "other", teacher="twin", seed=12), show_step=stopped_at(6))
    shutil.copy(tmp_path / "other" / "teacher.safetensors", stopped / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="is not the file that this run learned from so far"):
        train(config(stopped, teacher="twin"))


def test_a_checkpoint_that_does_not_say_what_it_learned_is_no_start(config: Make, stopped: Path) -> None:
    path = max(checkpoint_folders(stopped).values()) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"teacher": ""}))
    with pytest.raises(CheckpointError, match="does not say what it learned from its teacher"):
        train(config(stopped, teacher="twin"))


def test_the_teacher_is_part_of_what_a_run_is(config: Make, stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="teacher 'twin' there, None asked"):
        train(config(stopped))
    with pytest.raises(CheckpointError, match=r"teacher_weight 0\.5 there, 0\.25 asked"):
        train(config(stopped, teacher="twin", teacher_weight=0.25))
    train(config(stopped, max_steps=2), overwrite=True)
    assert not (stopped / "teacher.safetensors").exists()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            "SST-2",
            {"teacher": "twin", "quantize": False},
            "teacher twin teaches quantized steps, but quantize is False",
        ),
        (
            "SST-2",
            {"teacher_weight": 0.9},
            r"teacher_weight \(0\.9\) is of a teacher, and none is given; give --teacher",
        ),
        ("SST-2", {"teacher": ""}, "teacher must be .*twin, a folder or a name"),
        (
            "SST-2",
            {"teacher": "twin", "teacher_weight": 1.5},
            "teacher_weight must be between 0 and 1, got 1.5",
        ),
        (
            "SST-2",
            {"teacher": "twin", "teacher_revision": "main"},
            "is for a teacher of the hub, and twin is this run's",
        ),
        ("STS-B", {"teacher": "twin", "teacher_temperature": 1.0}, "is of logits of labels, and task STS-B has scores"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    config: Make, tmp_path: Path, task: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, task=task, **options)


def test_a_twin_with_a_new_head_knows_nothing(config: Make, tmp_path: Path) -> None:
    # the small model has a head of two outputs, which RTE's labels are taken for and STS-B's score is not
    with pytest.raises(ConfigError, match="at step 0, where its head is new and knows nothing; give a later"):
        train(config(tmp_path / "run", task="STS-B", teacher="twin", quantize_from=0.0))
    assert not (tmp_path / "run").exists()
    assert train(config(tmp_path / "run", teacher="twin", quantize_from=0.0, max_steps=2)).n_steps == 2
    assert glue_task("SST-2").head.n_outputs == 2
