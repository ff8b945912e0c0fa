"""What export reads of a run: the rows that it had, or a word that they are others."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from q8bert.export import assembly, export
from q8bert.export.trained_run import load_trained_run
from q8bert.spec.errors import CheckpointError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders


@pytest.mark.parametrize("split", ["train", "dev"])
def test_rows_that_are_not_the_runs_are_said_and_moved_ones_are_not(small: Any, tmp_path: Path, split: str) -> None:
    trained = load_trained_run(small.run("SST-2", "int8"))
    data = Path(shutil.copytree(small.data("SST-2"), tmp_path / "data"))
    said: list[str] = []
    n_rows = len(trained.rows(trained.source(str(data)), split, said.append))
    assert said == []
    with (data / f"{split}.tsv").open("a") as file:
        file.write("a good film\t1\n")
    assert len(trained.rows(trained.source(str(data)), split, said.append)) == n_rows + 1
    (sentence,) = said
    assert f"the {split} rows of {data} are not those that the run had ({n_rows + 1} now, {n_rows} then)" in sentence


def test_a_damaged_best_checkpoint_is_refused_with_the_remedy(small: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small.run("SST-2", "int8"), tmp_path / "run"))
    path = load_trained_run(run).checkpoint.path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json cannot be used .*It is the best one: put it back, or train again"
    ):
        load_trained_run(run)


def test_a_run_that_was_stopped_says_so_and_one_that_came_to_its_end_does_not(small: Any, tmp_path: Path) -> None:
    options = {
        "task": glue_task("SST-2"), "data_dir": str(small.data("SST-2")), "model": str(small.model), "max_length": 32,
        "output_dir": tmp_path / "run", "engine": "torch", "quantize": False, "max_steps": 6, "eval_every": 2,
    }  # fmt: skip

    def stop(step: int, n_steps: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig.from_options(**options), show_step=stop)
    assert load_trained_run(tmp_path / "run").stopped_at == 4
    train(TrainConfig.from_options(**options))
    assert load_trained_run(tmp_path / "run").stopped_at is None


def test_export_says_that_training_was_stopped(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(small.run("SST-2", "float32"), tmp_path / "run"))
    newest = list(checkpoint_folders(run).values())[-1] / "state.json"
    newest.write_text(json.dumps(json.loads(newest.read_text()) | {"is_last": False}))
    graph = onnx.load(small.bundle("SST-2", "float32") / "model.onnx")
    monkeypatch.setattr(assembly, "build_graph", lambda *_, **__: graph)  # it takes seconds
    said: list[str] = []
    _, report = export(run, tmp_path / "bundle", check_parity=False, report=said.append)
    last = max(checkpoint_folders(run))
    assert said[0].startswith(f"note: training was stopped at step {last}, before its end; the best checkpoint so far")
    assert f"of step {report.checkpoint_step}, is exported" in said[0]


def test_a_teacher_of_a_run_is_known(small: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small.run("SST-2", "int8"), tmp_path / "run"))
    assert "teacher" not in load_trained_run(run).model.origin.model
    record = json.loads((run / "run.json").read_text())
    record["options"] |= {"teacher": "twin", "teacher_weight": 0.75}
    (run / "run.json").write_text(json.dumps(record))
    twin = {"model": "twin", "weight": 0.75, "temperature": 2.0}
    assert load_trained_run(run).model.origin.model["teacher"] == twin
    record["options"]["teacher"] = "/models/large"
    record["inputs"]["teacher_weights"] = {"sha256": "ab" * 32, "size": 3}
    (run / "run.json").write_text(json.dumps(record))
    other = twin | {"model": "/models/large", "weights_sha256": "ab" * 32}
    assert load_trained_run(run).model.origin.model["teacher"] == other
