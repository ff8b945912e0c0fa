"""A run is what it was made of: data and model by content, not by place; and its folder is not ours alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from q8bert.runtime.cli import build_app
from q8bert.spec.errors import CheckpointError, ConfigError, OutputError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders
from q8bert.training.runs.identity.run_lock import run_lock
from q8bert.training.runs.identity.run_record import read_record, read_run


@dataclass(frozen=True)
class Stopped:
    """A run that was stopped after its first evaluation, with data and a model of its own."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    def go_on(self, *, data: str = "data", model: str = "model", overwrite: bool = False, **options: Any) -> list[str]:
        """Give the command again; return what was said."""
        said: list[str] = []
        values: dict[str, Any] = {
            "data_dir": str(self.root / data), "model": str(self.root / model), "output_dir": self.run, "max_steps": 4,
            "engine": "torch", "batch_size": 8, "max_length": 16, "threads": 1, "eval_every": 2, "calibration_batches": 1,
        }  # fmt: skip
        config = TrainConfig.from_options(task=glue_task("SST-2"), **(values | options))
        train(config, overwrite=overwrite, report=said.append)
        return said

    def n_steps(self) -> int:
        return max(checkpoint_folders(self.run))

    def state(self) -> dict[str, bytes]:
        """Return all that stands in the run's folder."""
        return {str(path): path.read_bytes() for path in sorted(self.run.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def stopped_once(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stopped")
    shutil.copytree(small.model, root / "model")
    (root / "data").mkdir()
    for split in ("train", "dev"):
        lines = (small.data("SST-2") / f"{split}.tsv").read_text().splitlines(keepends=True)
        (root / "data" / f"{split}.tsv").write_text("".join(lines[:33]))

    class StopError(Exception):
        pass

    def stop(step: int, n_steps: int, loss: float) -> None:
        if step == 3:
            raise StopError

    config = TrainConfig.from_options(
        task=glue_task("SST-2"), data_dir=str(root / "data"), model=str(root / "model"), output_dir=root / "run",
        max_steps=4, engine="torch", batch_size=8, max_length=16, threads=1, eval_every=2, calibration_batches=1,
    )  # fmt: skip
    with pytest.raises(StopError):
        train(config, show_step=stop)
    return root


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Stopped:
    # where it was trained is gone: every test goes on with a copy that moved
    return Stopped(shutil.copytree(stopped_once, tmp_path / "moved"))


def flip_labels(root: Path) -> None:
    path = root / "data" / "train.tsv"
    header, *rows = path.read_text().splitlines()
    flipped = [f"{row[:-1]}{1 - int(row[-1])}" for row in rows]
    path.write_text("\n".join([header, *flipped]) + "\n")


def append(split: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with (root / "data" / f"{split}.tsv").open("a") as file:
            file.write("a good film\t1\n" * 11)

    return change


def swap_two_rows(root: Path) -> None:
    path = root / "data" / "dev.tsv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")


def one_other_bit(root: Path) -> None:
    path = root / "model" / "model.safetensors"
    weights = load_file(path)
    weights["bert.pooler.dense.bias"][0] = torch.nextafter(weights["bert.pooler.dense.bias"][0], torch.tensor(9.0))
    save_file(weights, path, metadata={"format": "pt"})


def edit_json(file: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        content = json.loads((root / "model" / file).read_text())
        change(content)
        (root / "model" / file).write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_labels, r"other training rows than .*data has \(32 rows in both, which differ\)"),
        (append("train"), r"other training rows than .*data has \(32 rows there, 43 now\)"),
        (append("dev"), r"with other dev rows than .*data has \(32 rows there, 43 now\)"),
        (swap_two_rows, r"with other dev rows than .*data has \(32 rows in both, which differ\)"),
        (one_other_bit, r"with other weights than .*model has \(\d+ numbers in both, which differ\)"),
        (
            edit_json("config.json", lambda content: content.update(layer_norm_eps=0.1)),
            r"with another configuration than .*model has",
        ),
        (
            edit_json("tokenizer.json", lambda content: content["normalizer"].update(lowercase=False)),
            r"with another tokenizer than .*model has",
        ),
    ],
)
def test_what_changed_in_place_is_another_run(stopped: Stopped, change: Any, message: str) -> None:
    before = stopped.state()
    change(stopped.root)
    with pytest.raises(CheckpointError, match=message + r".*Give the same.*another --output-dir, or --overwrite"):
        stopped.go_on()
    assert stopped.state() == before
    stopped.go_on(overwrite=True)
    assert stopped.n_steps() == 4


def test_what_only_moved_is_the_same_run_and_is_found_again(stopped: Stopped) -> None:
    for name in ("data", "model"):
        (stopped.root / name).rename(stopped.root / f"new {name}")
    # files that say the same in other words
    config = json.loads((stopped.root / "new model" / "config.json").read_text())
    (stopped.root / "new model" / "config.json").write_text(json.dumps(config, indent=7) + "\n")
    (stopped.root / "new data" / "train.tsv").touch()
    said = stopped.go_on(data="new data", model="new model")
    assert "going on from step 2" in said
    assert stopped.n_steps() == 4
    recorded = read_run(stopped.run)
    assert (recorded.data_dir, recorded.model) == (str(stopped.root / "new data"), str(stopped.root / "new model"))


def test_a_relative_path_is_the_same_place(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stopped.root)
    assert "going on from step 2" in stopped.go_on(data_dir="data", model="model")
    assert read_run(stopped.run).data_dir == str(stopped.root / "data")


def test_all_that_differs_is_said_together(stopped: Stopped) -> None:
    flip_labels(stopped.root)
    with pytest.raises(CheckpointError, match=r"other options \(seed 11 there, 5 asked\), other training rows than"):
        stopped.go_on(seed=5)


def test_other_versions_of_libraries_are_said_and_gone_on_with(stopped: Stopped) -> None:
    edit_run(stopped.run, lambda content: content["versions"].update(torch="1.0", numpy="1.0"))
    said = stopped.go_on()
    (sentence,) = [one for one in said if "other versions" in one]
    assert "not bit for bit" in sentence
    assert f"torch 1.0 then, {torch.__version__} now" in sentence
    assert stopped.n_steps() == 4


def edit_run(run: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads((run / "run.json").read_text())
    change(content)
    (run / "run.json").write_text(json.dumps(content))


def test_of_a_run_of_an_earlier_release_is_said_that_nothing_can_be_compared(stopped: Stopped) -> None:
    edit_run(stopped.run, lambda content: (content.pop("inputs"), content.update(run_version=4)))
    assert any("that data and model are still the same cannot be checked" in one for one in stopped.go_on())
    assert stopped.n_steps() == 4
    assert read_record(stopped.run).inputs == {}, "what is unknown is not made up"


def test_a_run_of_an_earlier_release_goes_on_obeying_special_tokens(stopped: Stopped) -> None:
    path = stopped.run / "run.json"
    record = json.loads(path.read_text())
    assert record["options"].pop("obey_special_tokens") is False
    path.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="obey_special_tokens True there, False asked"):
        stopped.go_on()
    stopped.go_on(obey_special_tokens=True)
    states = [json.loads((folder / "state.json").read_text()) for folder in checkpoint_folders(stopped.run).values()]
    assert [state["obey_special_tokens"] for state in states] == [False, True]


def test_every_process_of_a_job_has_the_same_number_for_the_same_run(stopped: Stopped) -> None:
    from dataclasses import replace

    record = read_record(stopped.run)
    moved = replace(record, options={**record.options, "data_dir": "/elsewhere", "model": "/there"}, versions={})
    assert moved.number() == record.number()
    assert replace(record, options={**record.options, "seed": 5}).number() != record.number()
    for name, found in record.inputs.items():
        changed = replace(record, inputs={**record.inputs, name: replace(found, sha256="0" * 64)})
        assert changed.number() != record.number(), name


# ---- the folder ---------------------------------------------------------------------------------


def test_a_run_without_a_checkpoint_blocks_nothing(stopped: Stopped) -> None:
    shutil.rmtree(stopped.run / "checkpoints")
    (stopped.run / "notes.txt").write_text("mine")
    assert stopped.n_steps.__self__.go_on(seed=5, max_steps=2)
    assert read_run(stopped.run).seed == 5
    assert (stopped.run / "notes.txt").read_text() == "mine"


def test_a_record_that_a_crash_cut_short_blocks_nothing_before_the_first_checkpoint(stopped: Stopped) -> None:
    shutil.rmtree(stopped.run / "checkpoints")
    (stopped.run / "run.json").write_bytes((stopped.run / "run.json").read_bytes()[:200])
    stopped.go_on()
    assert stopped.n_steps() == 4


def test_overwriting_deletes_what_is_the_runs_and_nothing_else(stopped: Stopped) -> None:
    others = [
        stopped.run / name
        for name in ("notes.txt", "plots/a.png", "checkpoints/mine/model.bin", "tensorboard/mine.txt", "x.partial")
    ]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    stopped.go_on(overwrite=True, seed=5, max_steps=1, eval_every=1, quantize=False)
    assert [path.read_text() for path in others] == ["mine"] * 5
    assert list(checkpoint_folders(stopped.run)) == [1]
    assert len(list((stopped.run / "tensorboard").glob("events*"))) == 1
    steps = [json.loads(line)["step"] for line in (stopped.run / "log.jsonl").read_text().splitlines()]
    assert set(steps) == {1}


def test_a_run_is_not_overwritten_by_one_that_is_started_from_it(stopped: Stopped) -> None:
    stopped.go_on()
    before = stopped.state()
    checkpoint = str(checkpoint_folders(stopped.run)[4].relative_to(stopped.root))
    with pytest.raises(CheckpointError, match=r"--model .*step-00000004 would be deleted with the run in .*output-dir"):
        stopped.go_on(model=checkpoint, overwrite=True)
    with pytest.raises(CheckpointError, match=r"--teacher .*run would be deleted with the run in"):
        stopped.go_on(teacher=str(stopped.run), overwrite=True)
    assert stopped.state() == before


def test_a_run_file_of_another_program_is_not_replaced(stopped: Stopped) -> None:
    shutil.rmtree(stopped.run)
    stopped.run.mkdir()
    (stopped.run / "run.json").write_text('{"name": "app"}')
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match=r"run\.json is none of q8bert's; move it away"):
            stopped.go_on(overwrite=overwrite)
    assert (stopped.run / "run.json").read_text() == '{"name": "app"}'


def test_a_fresh_volume_is_an_empty_folder(stopped: Stopped, mount: Callable[..., None]) -> None:
    shutil.rmtree(stopped.run)
    stopped.run.mkdir()
    mount(stopped.run, "-t", "tmpfs", "tmpfs")
    (stopped.run / "lost+found").mkdir()
    (stopped.run / f"run.json.{'a' * 16}.partial").write_text("")  # of a start that was killed
    stopped.go_on()
    assert stopped.n_steps() == 4
    assert (stopped.run / "lost+found").is_dir()


def test_what_cannot_be_written_is_refused_before_anything_is_read(
    stopped: Stopped, mount: Callable[..., None]
) -> None:
    volume = stopped.root / "volume"
    volume.mkdir()
    mount(volume, "-t", "tmpfs", "-o", "ro", "tmpfs")
    for output_dir in (volume, volume / "run"):
        with pytest.raises(OutputError, match="Read-only file system"):
            stopped.go_on(output_dir=output_dir, data="nowhere")


@pytest.mark.parametrize("free_kb", [4, 40, 100, 180, 240])
def test_a_full_disk_is_an_error_and_leaves_the_checkpoints_as_they_were(
    stopped: Stopped, mount: Callable[..., None], free_kb: int
) -> None:
    kept = shutil.move(stopped.run, stopped.root / "kept")
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in Path(kept).rglob("*")) + 8
    stopped.run.mkdir()
    mount(stopped.run, "-t", "tmpfs", "-o", f"size={used + free_kb}k", "tmpfs")
    shutil.copytree(kept, stopped.run, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in checkpoint_folders(stopped.run)[2].iterdir()}
    with pytest.raises(OutputError, match=r"cannot be written .*(No space left|os error 28).*Make room"):
        stopped.go_on()
    folders = checkpoint_folders(stopped.run)
    assert list(folders) == [2]
    assert {path.name: path.read_bytes() for path in folders[2].iterdir()} == before
    assert not list(stopped.run.rglob("*.partial"))


# ---- two processes ------------------------------------------------------------------------------


def test_a_run_that_is_being_trained_is_refused_with_exit_code_2(stopped: Stopped) -> None:
    before = stopped.state()
    with run_lock(stopped.run, print):
        done = CliRunner().invoke(build_app(), [
            "train", "--task", "SST-2", "--data-dir", str(stopped.root / "data"), "--output-dir", str(stopped.run),
            "--model", str(stopped.root / "model"), "--overwrite",
        ])  # fmt: skip
    assert done.exit_code == 2
    assert "is being trained by process" in done.stderr
    assert stopped.state() == before


@pytest.mark.slow
def test_of_two_processes_that_start_together_one_trains_and_the_other_is_refused(stopped: Stopped) -> None:
    shutil.rmtree(stopped.run)
    command = [
        sys.executable, "-m", "q8bert.training", "--task", "SST-2", "--data-dir", stopped.root / "data", "--model",
        stopped.root / "model", "--output-dir", stopped.run, "--engine", "torch", "--max-steps", "400", "--batch-size", "8",
        "--eval-every", "100", "--max-length", "16", "--threads", "1", "--log-every", "1",
    ]  # fmt: skip
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    assert "is being trained by process" in said[[process.returncode for process in both].index(2)]
    steps = [json.loads(line) for line in (stopped.run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["event"] == "train"] == list(range(1, 401))


# ---- the record ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text('{"run_version": 5'), r"run\.json is damaged \(.*delimiter"),
        (lambda path: path.write_text("[]"), r"run\.json is damaged \(.*expected a JSON object"),
        (lambda path: path.write_bytes(b"\xff\xfe"), r"run\.json is damaged"),
        (lambda path: path.write_text("[" * 100_000), r"run\.json is damaged .*brackets without end"),
        (lambda path: (path.unlink(), path.mkdir()), r"run\.json is damaged .*Is a directory"),
        (lambda path: path.write_text('{"run_version": 99}'), r"of version 99; this release reads 4, 5, 6"),
        (
            lambda path: edit_run(path.parent, lambda content: content.update(inputs={"train": 5}, processes="two")),
            r"processes must be a whole number, got 'two'; inputs: train must be an object with sha256, size",
        ),
        (
            lambda path: edit_run(path.parent, lambda content: content["options"].update(epochs=0)),
            "epochs must be at least 1, got 0",
        ),
    ],
)
def test_a_damaged_record_is_refused_with_file_and_remedy(stopped: Stopped, damage: Any, message: str) -> None:
    damage(stopped.run / "run.json")
    with pytest.raises(CheckpointError, match=message):
        read_record(stopped.run)
    with pytest.raises((CheckpointError, ConfigError)):
        stopped.go_on()


def test_a_folder_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not the folder of a training run: it has no run\.json. Make one"):
        read_run(tmp_path)


@pytest.mark.parametrize("line", [b"garbage", b"{}", b"[1]", b'{"step": "x"}', b"\xff", b"[" * 100_000])
def test_a_line_of_the_log_that_is_none_is_named_and_nothing_is_lost(stopped: Stopped, line: bytes) -> None:
    path = stopped.run / "log.jsonl"
    content = path.read_bytes()
    path.write_bytes(line + b"\n" + content)
    with pytest.raises(CheckpointError, match=r"log\.jsonl, line 1 is no event of a run's log .*Delete the line"):
        stopped.go_on()
    assert path.read_bytes() == line + b"\n" + content
    path.write_bytes(content + line)  # a last line without its end is what a crash leaves
    stopped.go_on()
    assert [json.loads(one)["event"] for one in path.read_text().splitlines()].count("dev") == 2
