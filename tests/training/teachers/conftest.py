"""Runs that learn from a teacher, small and short."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from q8bert.data.readers import read_split
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders


@pytest.fixture
def config(small: Any) -> Callable[..., TrainConfig]:
    """Options of a run of ten steps, four of them float, that keeps every checkpoint."""

    def make(output_dir: Path, *, task: str = "SST-2", **options: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "data_dir": str(small.data(task)), "model": str(small.model), "engine": "torch", "max_steps": 10,
            "batch_size": 16, "learning_rate": 3e-3, "max_length": 32, "threads": 1, "quantize_from": 0.4, "eval_every": 5,
            "save_every": 2, "keep_checkpoints": 10, "calibration_batches": 1, "log_every": 1, "dropout": 0.1,
        }  # fmt: skip
        return TrainConfig.from_options(task=glue_task(task), output_dir=output_dir, **(values | options))

    return make


@pytest.fixture
def by_transformers(small: Any) -> Callable[..., torch.Tensor]:
    """What transformers computes for the first 60 training rows, a row at a time: float64 ``(n_rows, n_outputs)``."""

    def run(model: Path, tokenizer: Path, *, task: str = "SST-2") -> torch.Tensor:
        from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

        loaded = AutoModelForSequenceClassification.from_pretrained(model).eval()
        encode = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / "tokenizer.json"))
        rows = read_split(glue_task(task), str(small.data(task)), "train").examples[:60]
        logits = []
        with torch.no_grad():
            for row in rows:
                texts = (row.text,) if row.text_pair is None else (row.text, row.text_pair)
                logits.append(loaded(**encode(*texts, return_tensors="pt", return_token_type_ids=True)).logits[0])
        return torch.stack(logits).double()

    return run


@pytest.fixture
def assert_same_runs() -> Callable[[Path, Path], None]:
    """Check that two runs have the same last checkpoint, bit for bit."""

    def check(ours: Path, theirs: Path) -> None:
        folders = [max(checkpoint_folders(run).values()) for run in (ours, theirs)]
        assert folders[0].name == folders[1].name
        for file in ("model.safetensors", "optimizer.safetensors", "ranges.safetensors"):
            found, expected = (load_file(folder / file) for folder in folders)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert torch.equal(found[name], tensor), name

    return check
