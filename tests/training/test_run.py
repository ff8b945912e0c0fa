"""A run as a whole: resumed exactly, refused clearly, written atomically."""

import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from q8bert.machine.builds import OrtBuild
from q8bert.spec.errors import CheckpointError, ConfigError, InputError, ModelError, ProviderError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.engines import device as device_module
from q8bert.training.runs.checkpoints import checkpoint as checkpoint_module
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint
from q8bert.training.runs.identity.run_record import read_run
from q8bert.training.runs.run_folder import best_checkpoint

# what of the log is of a clock, and never the same twice
TIMES = {"seconds", "seconds_per_step", "rows_per_second"}


class StoppedError(Exception):
    """Stands for a crash."""


def config(small: Any, output_dir: Path, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data_dir": str(small.data("SST-2")), "model": str(small.model), "engine": "torch", "epochs": 2,
        "batch_size": 32, "learning_rate": 1e-3, "max_length": 32, "threads": 1, "log_every": 5,
        "dropout": 0.1, "quantize_from": 0.0,
    }  # fmt: skip
    return TrainConfig.from_options(task=glue_task("SST-2"), output_dir=output_dir, **(values | options))


def events(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


@pytest.mark.parametrize(
    ("engine", "dropout", "ranges"),
    [
        ("torch", 0.1, "ema"), ("ort", 0.0, "ema"), pytest.param("ort", 0.1, "ema", marks=pytest.mark.slow),
        ("torch", 0.1, "learned"), pytest.param("ort", 0.0, "learned", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_an_interrupted_run_ends_as_one_never_interrupted(
    small: Any, tmp_path: Path, engine: str, dropout: float, ranges: str
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options: dict[str, Any] = {"engine": engine, "dropout": dropout, "ranges": ranges}
    expected = train(config(small, whole, **options))

    def stop(step: int, n_steps: int, loss: float) -> None:
        if step == 27:  # in the middle of the second epoch of 19 steps, after two more lines of log
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config(small, cut, **options), show_step=stop)
    result = train(config(small, cut, **options))

    assert result.metrics == expected.metrics
    assert result.n_steps == 38
    weights = [load_file(checkpoint_folders(run)[38] / "model.safetensors") for run in (whole, cut)]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    kept = [load_checkpoint(checkpoint_folders(run)[38]).ranges.tensors() for run in (whole, cut)]
    for name, tensor in kept[0].items():
        assert torch.equal(tensor, kept[1][name]), name
    assert events(whole) == events(cut)


def test_ranges_of_another_kind_than_the_runs_are_refused(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def stop(step: int, *_: Any) -> None:
        if step == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config(small, run, max_steps=4, save_every=2), show_step=stop)
    record = json.loads((run / "run.json").read_text())
    record["options"]["ranges"] = "learned"
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="has ranges that are not learned, as the run's are"):
        train(config(small, run, max_steps=4, save_every=2, ranges="learned"))


def test_what_was_found_in_the_model_is_told_and_logged_once(small: Any, tmp_path: Path) -> None:
    run, told = tmp_path / "run", list[str]()

    def stop(*_: Any) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        train(config(small, run, max_steps=2), show_step=stop)
    train(config(small, run, max_steps=2), report=told.append)
    (found,) = [event for event in events(run) if event["event"] == "source"]
    assert (found["layer"], found["dtype"], found["revision"]) == ("classifier", "float32", None)
    assert found["head"].startswith("kept, its outputs have no names")
    assert f"head classifier: {found['head']}" in told


def test_a_finished_run_is_returned_and_other_options_are_refused(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(config(small, run, epochs=1))
    before = (run / "log.jsonl").read_bytes()
    assert train(config(small, run, epochs=1)).metrics == first.metrics
    assert (run / "log.jsonl").read_bytes() == before
    with pytest.raises(CheckpointError, match=r"epochs 1 there, 2 asked.*--overwrite"):
        train(config(small, run))
    assert train(config(small, run), overwrite=True).n_steps == 38


def test_a_folder_with_something_else_is_refused_and_left_alone(small: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="holds no run"):
        train(config(small, tmp_path), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_nothing_is_left_behind_when_model_or_data_are_missing(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        train(config(small, tmp_path / "run", model=str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"data folder .* does not exist"):
        train(config(small, tmp_path / "run", data_dir=str(tmp_path / "none")))
    assert not (tmp_path / "run").exists()


def test_gradients_by_onnxruntime_training_are_refused_without_that_package(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "installed_ort_build", lambda: OrtBuild("onnxruntime", "1.32.0"))
    with pytest.raises(ProviderError) as caught:
        train(config(small, tmp_path / "run", engine="ort", gradients="onnxruntime-training"))
    assert "needs that package, but onnxruntime 1.32.0 is installed" in str(caught.value)
    assert 'pip uninstall -y onnxruntime && pip install "q8bert[train-ort-training]"' in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_training_learns_and_keeps_the_best_checkpoint(small: Any) -> None:
    run = small.run("SST-2", "int8")
    dev = [event for event in events(run) if event["event"] == "dev"]
    best = max(dev, key=lambda event: event["accuracy"])
    checkpoint = best_checkpoint(run)
    assert checkpoint.progress.metrics["accuracy"] == best["accuracy"] > 0.85
    assert set(checkpoint_folders(run)) == {checkpoint.progress.step, dev[-2]["step"], dev[-1]["step"]}
    losses = [event["loss"] for event in events(run) if event["event"] == "train"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_a_checkpoint_is_loadable_by_transformers_under_its_own_names(small: Any) -> None:
    from transformers import BertForSequenceClassification

    folder = best_checkpoint(small.run("SST-2", "int8")).path
    model, info = BertForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.id2label == {0: "negative", 1: "positive"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 40), "incomplete or damaged"),
        (lambda folder: (folder / "optimizer.safetensors").unlink(), "incomplete or damaged"),
        (lambda folder: (folder / "state.json").write_text("{"), "incomplete or damaged"),
        (lambda folder: (folder / "state.json").write_text("[]"), "incomplete or damaged"),
        (lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe"), "incomplete or damaged"),
        (
            lambda folder: (folder / "state.json").write_text('{"checkpoint_version": 99}'),
            "is of version 99; this release",
        ),
        (
            lambda folder: (folder / "optimizer.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
            "optimizer.safetensors cannot be used .*pointer of Git LFS.*git lfs pull",
        ),
        (
            lambda folder: edited_state(folder, lambda s: (s["progress"].update(step="19"), s.update(sites=[5]))),
            r"progress: step must be a whole number, got '19'; sites\[0\] must be an object with name, linears, smoothing",
        ),
        (lambda folder: edited_state(folder, lambda s: s.update(range_count=10**400)), "range_count is 1000"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "incomplete or damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_remedy(small: Any, tmp_path: Path, damage: Any, message: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(small.run("SST-2", "int8"), run)
    folders = checkpoint_folders(run)
    damage(folders[max(folders)])
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folders[max(folders)])


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json"])
def test_a_file_of_another_checkpoint_is_told_by_its_checksum(small: Any, tmp_path: Path, file: str) -> None:
    run = Path(shutil.copytree(small.run("SST-2", "int8"), tmp_path / "run"))
    path, *_, other = (folder / file for folder in checkpoint_folders(run).values())
    path.write_bytes(other.read_bytes() if file.endswith("safetensors") else path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=rf"{file} cannot be used \(not the file that was written: SHA-256"):
        load_checkpoint(path.parent)


def test_a_checkpoint_in_the_folder_of_another_step_is_refused(small: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small.run("SST-2", "int8"), tmp_path / "run"))
    first, *_ = checkpoint_folders(run).values()
    first.rename(first.with_name("step-00000999"))
    with pytest.raises(CheckpointError, match=r"it is of step \d+, and stands in the folder of another"):
        load_checkpoint(first.with_name("step-00000999"))


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
def test_of_a_damaged_newest_checkpoint_an_older_whole_one_is_offered(small: Any, tmp_path: Path, file: str) -> None:
    run, options = tmp_path / "run", {"epochs": 1, "save_every": 5, "keep_checkpoints": 3}
    expected = train(config(small, run, **options))
    folders = checkpoint_folders(run)
    newest, older = folders[19], sorted(folders)[-2]
    content = (newest / "model.safetensors").read_bytes()
    (newest / file).write_bytes((newest / file).read_bytes()[:-100])
    if file == "state.json":
        (newest / file).unlink()
    with pytest.raises(
        CheckpointError, match=rf"step-00000019 is incomplete.*The one of step {older} is whole: delete"
    ):
        train(config(small, run, **options))
    shutil.rmtree(newest)
    assert train(config(small, run, **options)).metrics == expected.metrics
    assert (checkpoint_folders(run)[19] / "model.safetensors").read_bytes() == content


def test_a_checkpoint_of_another_model_is_refused_and_an_older_one_offered(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"epochs": 1, "save_every": 5, "keep_checkpoints": 3}
    train(config(small, run, **options))
    path = checkpoint_folders(run)[19] / "model.safetensors"
    without_checksums(path.parent)
    weights = load_file(path)
    del weights["classifier.bias"]
    weights["bert.pooler.dense.bias"] = torch.zeros(3)
    save_file(weights, path)
    message = (
        r"is of another model: missing \['classifier\.bias'\].*mis-shaped \['bert\.pooler\.dense\.bias \(3,\)"
        r".*The one of step 15 is whole"
    )
    with pytest.raises(CheckpointError, match=message):
        train(config(small, run, **options))


def edited_state(folder: Path, change: Any) -> None:
    state = json.loads((folder / "state.json").read_text())
    change(state)
    (folder / "state.json").write_text(json.dumps(state))


def without_checksums(folder: Path) -> None:
    """Make a checkpoint one of an earlier release, so that other contents are not seen at once."""
    edited_state(folder, lambda state: state.pop("files"))


def without_moments(folder: Path) -> None:
    moments = load_file(folder / "optimizer.safetensors")
    save_file(dict(list(moments.items())[:6]), folder / "optimizer.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_moments, "the optimizer's moments are not those of the model's parameters"),
        (lambda folder: edited_state(folder, lambda s: s["sites"].reverse()), "has ranges of other activations"),
        (
            lambda folder: save_file({"average": torch.zeros(3, dtype=torch.float64)}, folder / "ranges.safetensors"),
            "has ranges of other activations",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_model_is_no_start(
    small: Any, tmp_path: Path, damage: Any, message: str
) -> None:
    run = tmp_path / "run"
    train(config(small, run, max_steps=2, eval_every=1))
    without_checksums(checkpoint_folders(run)[2])
    damage(checkpoint_folders(run)[2])
    with pytest.raises(CheckpointError, match=message):
        train(config(small, run, max_steps=2, eval_every=1))


@pytest.mark.slow
def test_a_run_killed_at_any_call_of_a_checkpoints_writing_ends_as_one_never_interrupted(
    small: Any, tmp_path: Path
) -> None:
    options = {"max_steps": 4, "save_every": 2, "eval_every": 4, "calibration_batches": 1}
    train(config(small, tmp_path / "expected", **options))
    expected = checkpoint_folders(tmp_path / "expected")
    for number in itertools.count(1):
        run = tmp_path / f"run{number}"
        child = os.fork()
        if child == 0:  # what is patched here is patched nowhere else
            status = 1
            try:
                kill_at_call(number)
                train(config(small, run, **options))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        train(config(small, run, **options))
        folders = checkpoint_folders(run)
        assert list(folders) == list(expected)
        assert not [path for path in (run / "checkpoints").iterdir() if path.name.endswith(".partial")]
        for file in ("model.safetensors", "optimizer.safetensors", "ranges.safetensors", "state.json"):
            assert (folders[4] / file).read_bytes() == (expected[4] / file).read_bytes(), (number, file)
    assert 40 < number < 150, "two checkpoints are written in some forty calls each"


def kill_at_call(number: int) -> None:
    """End this process at the nth call that writes, renames or deletes."""
    n_calls = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **more)

        return call

    for owner, name in (
        (checkpoint_module, "save_file"), (checkpoint_module, "write_state"), (Path, "rename"), (Path, "replace"),
        (os, "fsync"), (shutil, "rmtree"), (Path, "mkdir"), (Path, "unlink"),
    ):  # fmt: skip
        setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "ort"])
@pytest.mark.parametrize(
    ("save_every", "more"), [(1, ()), (5, ()), (5, ("--teacher", "twin", "--average-weights", "0.3"))]
)
def test_a_run_killed_at_any_moment_ends_as_one_never_interrupted(
    small: Any, engine: str, save_every: int, more: tuple[str, ...]
) -> None:
    tool = Path(__file__).parents[2] / "tools" / "kill_and_resume.py"
    seed = random.randrange(10**6)
    done = subprocess.run(
        [
            sys.executable, tool, "--model", small.model, "--data-dir", small.data("SST-2"), "--engine", engine,
            "--kills", "4", "--save-every", str(save_every), "--seed", str(seed), *more,
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    assert f"{engine}: 4 kills" in done.stdout


def test_options_survive_the_run_folder(small: Any, tmp_path: Path) -> None:
    run = small.run("STS-B", "int8")
    assert read_run(run).task == glue_task("STS-B")
    assert read_run(run).execution.engine == "torch"
    with pytest.raises(CheckpointError, match="not the folder of a training run"):
        read_run(tmp_path)


def test_malformed_rows_stop_a_run_or_are_listed(small: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small.data("SST-2"), data)
    with (data / "train.tsv").open("a") as file:
        file.write("a good film\tseven\n")
    with pytest.raises(InputError, match=r"train\.tsv, line 602, column label: unknown label .*got 'seven'"):
        train(config(small, tmp_path / "run", data_dir=str(data), epochs=1))
    result = train(config(small, tmp_path / "run", data_dir=str(data), epochs=1, skip_malformed=True))
    assert len(result.skipped) == 1
    assert "line 602" in result.skipped[0]


def test_a_run_takes_paths_in_any_form_reads_csv_and_says_what_is_lost(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [("a good film, really", 1), ('"bad"', 0), ("good " * 40, 1), ("dull", 0)]
    for split in ("train", "dev"):
        with (data / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("sentence", "label"), *rows])
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    options = {"data_dir": data, "model": small.model, "max_steps": 1, "quantize": False}
    result = train(config(small, "runs/x", **options), report=told.append)  # type: ignore[arg-type]
    assert (result.path, result.data.train.n_truncated) == (Path("runs/x"), 1)
    # 40 words, [CLS] and [SEP]
    lost = (
        "1 of 4 training rows (25.0 %) are longer than 32 tokens and lose text; --max-length 42 would keep 99 % whole"
    )
    assert lost in told
    assert json.loads((tmp_path / "runs" / "x" / "data.json").read_text())["train"]["length_of_most"] == 42


def test_a_dev_split_that_no_metric_can_score_is_refused_before_anything_is_made(small: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small.data("STS-B"), data)
    header, *rows = (data / "dev.tsv").read_text().splitlines()
    same = [row.rpartition("\t")[0] + "\t2.5" for row in rows]
    (data / "dev.tsv").write_text("\n".join([header, *same]))
    options = replace(config(small, tmp_path / "run", data_dir=data), task=glue_task("STS-B"))
    with pytest.raises(InputError, match=r"dev\.tsv: pearson is undefined there.*every row has the score 2\.5"):
        train(options)
    assert not (tmp_path / "run").exists()


def test_train_is_told_a_configuration_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train({"epochs": 2}, overwrite="yes", report="print")  # type: ignore[arg-type]
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == ["config", "overwrite", "report"]
