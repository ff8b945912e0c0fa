"""A run that learns scores: in whatever units they are, it is the same run, and speaks the user's units."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from q8bert.spec.errors import InputError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders
from q8bert.training.runs.preparation import prepare
from q8bert.training.runs.run_folder import best_checkpoint


def config(small: Any, output_dir: Path, data: Path | None = None, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data_dir": str(data or small.data("STS-B")), "model": str(small.model), "engine": "torch", "max_steps": 20,
        "eval_every": 10, "batch_size": 16, "learning_rate": 3e-3, "max_length": 32, "threads": 1, "log_every": 5,
        "quantize_from": 0.3, "calibration_batches": 4,
    }  # fmt: skip
    return TrainConfig.from_options(task=glue_task("STS-B"), output_dir=output_dir, **(values | options))


@pytest.fixture
def rescored(small: Any, tmp_path: Path) -> Callable[..., Path]:
    """Copy the data with other scores, in the splits that are named."""

    def make(change: Callable[[float], float], *splits: str) -> Path:
        folder = tmp_path / "rescored"
        shutil.copytree(small.data("STS-B"), folder)
        for split in splits or ("train", "dev"):
            header, *rows = (folder / f"{split}.tsv").read_text().splitlines()
            cells = [row.split("\t") for row in rows]
            rows = ["\t".join([*texts, repr(change(float(number)))]) for *texts, number in cells]
            (folder / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n")
        return folder

    return make


def scores_of(folder: Path) -> np.ndarray[Any, Any]:
    return np.array([float(line.split("\t")[2]) for line in (folder / "train.tsv").read_text().splitlines()[1:]])


def weights_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_folders(run)[step] / "model.safetensors")


@pytest.mark.parametrize(
    ("engine", "quantize"),
    [
        ("torch", True),
        pytest.param("torch", False, marks=pytest.mark.slow),
        pytest.param("ort", True, marks=pytest.mark.slow),
        pytest.param("ort", False, marks=pytest.mark.slow),
    ],
)
def test_scores_of_another_scale_train_to_the_same_weights(
    small: Any, tmp_path: Path, rescored: Callable[..., Path], engine: str, quantize: bool
) -> None:
    data = rescored(lambda score: 1000 * score + 1000)
    options = {"engine": engine, "quantize": quantize}
    expected = train(config(small, tmp_path / "plain", **options))
    found = train(config(small, tmp_path / "thousands", data, **options))
    # float64 standardizes both to numbers that differ by some 1e-13, which are the same in float32 for all rows here
    ours, theirs = (weights_of(tmp_path / run, 20) for run in ("thousands", "plain"))
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert found.best_step == expected.best_step
    assert found.metrics == pytest.approx(dict(expected.metrics), abs=1e-9)
    assert expected.metrics["pearson"] > 0.2
    scale = best_checkpoint(tmp_path / "thousands").target_scale
    assert (scale.mean, scale.std) == pytest.approx((scores_of(data).mean(), scores_of(data).std()), rel=1e-12)


def test_a_run_from_a_trained_head_keeps_its_scores_and_goes_on_where_it_was_interrupted(
    small: Any, tmp_path: Path, rescored: Callable[..., Path]
) -> None:
    train(config(small, tmp_path / "first"))
    first = best_checkpoint(tmp_path / "first")
    data = rescored(lambda score: 100 * score - 50)
    second = config(small, tmp_path / "whole", data, model=str(first.path), max_steps=10, eval_every=5)
    given = prepare(second, torch.device("cpu"), lambda _: None)
    assert given.target_scale == TargetScale.of_scores(list(scores_of(data)), source="")
    # by hand: the first run's standardized output, in its units, standardized by the second run's scale
    for name in ("classifier.weight", "classifier.bias"):
        at = first.target_scale.mean if name.endswith("bias") else 0.0
        term = given.target_scale.mean if name.endswith("bias") else 0.0
        expected = (first.weights[name].double() * first.target_scale.std + at - term) / given.target_scale.std
        torch.testing.assert_close(given.source.model.get_parameter(name).double(), expected, rtol=1e-5, atol=1e-6)

    expected_result = train(second)
    cut = config(small, tmp_path / "cut", data, model=str(first.path), max_steps=10, eval_every=5)

    def stop(step: int, n_steps: int, loss: float) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, show_step=stop)
    assert train(cut).metrics == expected_result.metrics
    ours, theirs = weights_of(tmp_path / "cut", 10), weights_of(tmp_path / "whole", 10)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_run_that_was_begun_with_scores_as_they_are_goes_on_so(small: Any, tmp_path: Path) -> None:
    options = {"max_steps": 6, "eval_every": 3, "quantize_from": 0.0}

    def stop(step: int, n_steps: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(small, tmp_path / "run", **options), show_step=stop)
    path = checkpoint_folders(tmp_path / "run")[3] / "config.json"
    path.write_text(path.read_text().replace('"target_scale"', '"other"'))  # as an earlier release left it
    state = json.loads((path.parent / "state.json").read_text())
    del state["files"]
    (path.parent / "state.json").write_text(json.dumps(state))
    train(config(small, tmp_path / "run", **options))
    assert best_checkpoint(tmp_path / "run").target_scale == UNSCALED


def test_scores_that_are_all_equal_are_refused_before_a_folder_is_made(
    small: Any, tmp_path: Path, rescored: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match=r"train\.tsv: all 600 scores are 3\. Regression is learned from"):
        train(config(small, tmp_path / "run", rescored(lambda _: 3.0, "train")))
    assert not (tmp_path / "run").exists()


def test_a_best_score_that_is_no_better_than_chance_is_called_so(
    small: Any, tmp_path: Path, rescored: Callable[..., Path]
) -> None:
    said: list[str] = []
    options = {"max_steps": 40, "eval_every": 40, "quantize": False}
    train(config(small, tmp_path / "run", rescored(lambda score: -score, "dev"), **options), report=said.append)
    (evaluated,) = (text for text in said if text.startswith("step 40/40") and ", dev: " in text)
    assert "pearson -0." in evaluated
    assert evaluated.endswith("(best so far, and no better than chance)")
    assert said[-1].startswith("warning: pearson never rose above 0 on the dev split")
    said.clear()
    train(config(small, tmp_path / "right", **options), report=said.append)
    assert said[-1].endswith("(best so far)")
