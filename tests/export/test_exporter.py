"""Run → bundle, whole or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q8bert.export import export
from q8bert.export.parity import compare
from q8bert.glue.tasks import glue_task
from q8bert.spec.errors import CheckpointError, ExportError, ParityError
from q8bert.training.batches import TokenizedSplit
from q8bert.training.run_folder import best_checkpoint


@pytest.mark.slow
def test_a_bundle_says_what_it_is(small: Any, tmp_path: Path) -> None:
    bundle, report = export(small.run("SST-2", "int8"), tmp_path / "bundle")
    manifest = bundle.manifest
    checkpoint = best_checkpoint(small.run("SST-2", "int8"))
    assert (manifest.precision, manifest.max_length, manifest.task["name"]) == ("int8", 32, "SST-2")
    assert manifest.metrics == checkpoint.progress.metrics == report.metrics
    scales = manifest.quantization["activation_scales"]
    expected = checkpoint.ranges.amax().numpy() / 127
    assert list(scales) == [site.name for site in checkpoint.sites]  # type: ignore[call-overload]
    np.testing.assert_allclose(list(scales.values()), expected, rtol=1e-6)  # type: ignore[attr-defined]
    card = (bundle.path / "README.md").read_text()
    assert "SST-2 classifier, INT8" in card
    assert "negative, positive" in card
    assert report.parity is not None
    assert json.loads((bundle.path / "parity.json").read_text())["n_rows"] == report.parity.n_rows == 200


@pytest.mark.slow
def test_an_old_bundle_is_replaced_and_anything_else_is_not(small: Any, tmp_path: Path) -> None:
    run = small.run("SST-2", "float32")
    first, _ = export(run, tmp_path / "bundle", check_parity=False)
    assert not (first.path / "parity.json").exists()
    (first.path / "stray").write_text("x")
    second, _ = export(run, tmp_path / "bundle", check_parity=False)
    assert not (second.path / "stray").exists()
    assert second.manifest.files == first.manifest.files  # the same run gives the same bytes
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ExportError, match="is no bundle; it is not overwritten"):
        export(run, tmp_path / "letters", check_parity=False)
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["a.txt"]


@pytest.mark.slow
def test_missing_data_and_missing_checkpoints_are_named(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot be read: data folder .*Give its folder with --data-dir"):
        export(small.run("SST-2", "int8"), tmp_path / "bundle", data_dir=str(tmp_path / "none"))
    assert not (tmp_path / "bundle").exists()
    run = tmp_path / "run"
    shutil.copytree(small.run("SST-2", "int8"), run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        export(run, tmp_path / "bundle")


class _Fixed:
    """Gives logits that were decided beforehand, as engine and as session."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def logits(self, inputs: Any, amax: Any) -> Any:
        import torch

        return torch.from_numpy(self._logits)

    def run(self, inputs: Any) -> np.ndarray:
        return self._logits


def test_parity_counts_differences_and_stops_at_a_defect() -> None:
    import torch

    from q8bert.glue.tokenizer import Encoded

    ids = tuple(np.array([1, 2], dtype=np.int64) for _ in range(4))
    split = TokenizedSplit(Encoded(ids, ids), torch.tensor([0, 1, 0, 1]), ("input_ids", "attention_mask"), 0)
    simulated = np.array([[2.0, 0], [0, 2], [2, 0], [0, 2]], dtype=np.float32)
    floats = simulated + 0.25
    near = simulated + np.array([[0.25, 0], [0, 0], [0, 0], [0, 0]], dtype=np.float32)
    far = simulated + 0.125
    task, amax = glue_task("SST-2"), torch.ones(1)

    def parity(exported: np.ndarray, ranges: Any) -> Any:
        engines: Any = (_Fixed(simulated), _Fixed(floats), ranges, _Fixed(exported))
        return compare(*engines, split=split, task=task, batch_size=4)

    report = parity(near, amax)
    assert (report.max_abs_diff, report.mean_abs_diff, report.quantization_effect) == (0.25, 0.25 / 8, 0.25)
    assert report.equal_predictions == 1.0
    with pytest.raises(ParityError, match=r"mean difference of a logit 0\.125 .* allowed 0\.0625") as caught:
        parity(far, amax)
    assert (caught.value.max_abs_diff, caught.value.atol) == (0.125, 0.0625)
    assert parity(simulated, None).quantization_effect == 0.0
    with pytest.raises(ParityError, match=r"largest difference of a logit 0\.25 .* allowed 0\.001"):
        parity(near, None)
