"""Checkpoints of earlier days are read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from q8bert.spec.errors import CheckpointError
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.progress import Progress
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.quantization.sites import Site
from q8bert.training.runs.checkpoints.checkpoint import load_checkpoint

# as version 0.1.0 wrote it
STATE_JSON = """
{
  "checkpoint_version": 3,
  "progress": {
    "step": 114, "metrics": {"accuracy": 0.94}, "best_step": 76, "best_metric": 0.945, "evaluations_since_best": 1,
    "loss_sum": 0.0, "loss_count": 0
  },
  "loss_scale": {"scale": 1.0, "factor": 2.0, "window": 0, "steps_since_change": 114, "n_skipped": 0},
  "sites": [
    {"name": "a.query.input", "linears": ["a.query", "a.key"], "smoothing": [0, 3]},
    {"name": "classifier.input", "linears": ["classifier"], "smoothing": []}
  ],
  "range_count": 122, "range_decay": 0.99, "input_names": ["input_ids", "attention_mask"], "pad_token_id": 0
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "state.json").write_text(STATE_JSON)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    save_file({"a.weight.exp_avg": torch.zeros(2, 2)}, tmp_path / "optimizer.safetensors")
    save_file({"average": torch.tensor([2.0, 3.0], dtype=torch.float64)}, tmp_path / "ranges.safetensors")
    return tmp_path


def test_a_checkpoint_of_earlier_days_is_read(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert checkpoint.target_scale == UNSCALED
    assert checkpoint.progress == Progress(114, {"accuracy": 0.94}, 76, 0.945, 1)
    assert checkpoint.loss_scale == LossScale(steps_since_change=114)
    assert checkpoint.sites == (
        Site("a.query.input", ("a.query", "a.key"), (0, 3)), Site("classifier.input", ("classifier",)),
    )  # fmt: skip
    assert (checkpoint.ranges.count, checkpoint.ranges.decay) == (122, 0.99)
    assert checkpoint.ranges.average.tolist() == [2.0, 3.0]
    assert (checkpoint.input_names, checkpoint.pad_token_id) == (("input_ids", "attention_mask"), 0)


@pytest.mark.parametrize("zero_point", [-126, 0, 44])
def test_zero_points_are_read(folder: Path, zero_point: int) -> None:
    state = json.loads(STATE_JSON) | {"checkpoint_version": 4}
    state["sites"][1]["zero_point"] = zero_point
    (folder / "state.json").write_text(json.dumps(state))
    assert [site.zero_point for site in load_checkpoint(folder).sites] == [0, zero_point]


@pytest.mark.parametrize("zero_point", [-128, 3, 500])
def test_zero_points_that_no_grid_has_are_damage(folder: Path, zero_point: int) -> None:
    state = json.loads(STATE_JSON) | {"checkpoint_version": 4}
    state["sites"][1]["zero_point"] = zero_point
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=rf"zero points are \[{zero_point}\], not even numbers from -126 to 126"):
        load_checkpoint(folder)


def test_the_units_of_scores_are_read_and_refused_where_they_are_damaged(folder: Path) -> None:
    (folder / "config.json").write_text('{"target_scale": {"mean": 2.75, "std": 1.5}}')
    assert load_checkpoint(folder).target_scale == TargetScale(2.75, 1.5)
    (folder / "config.json").write_text('{"target_scale": {"mean": 2.75, "std": "wide"}}')
    with pytest.raises(CheckpointError, match=r"is incomplete or damaged.*std must be a finite number, got 'wide'"):
        load_checkpoint(folder)
