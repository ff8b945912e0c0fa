"""The loop: how rows become steps, what happens when, and what that leaves behind."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertForSequenceClassification

from q8bert.data.readers import read_split
from q8bert.machine.builds import installed_ort_build
from q8bert.spec.errors import CheckpointError, ConfigError, ModelError
from q8bert.tasks.glue import glue_task
from q8bert.text.encoded import Encoded, Rows
from q8bert.training import TrainConfig, train
from q8bert.training.loop.batches import TokenizedSplit, shared_out
from q8bert.training.loop.gradients import step_seed
from q8bert.training.programs import cache as programs_module
from q8bert.training.programs.cache import Programs
from q8bert.training.quantization.learned_ranges import LearnedRanges
from q8bert.training.quantization.sites import Site
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint
from q8bert.training.runs.preparation import prepare
from q8bert.training.runs.run_folder import best_checkpoint


class StoppedError(Exception):
    """Stands for a crash."""


def config(small: Any, output_dir: Path, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data_dir": str(small.data("SST-2")), "model": str(small.model), "engine": "torch", "epochs": 1,
        "batch_size": 32, "learning_rate": 1e-3, "max_length": 32, "threads": 1, "log_every": 1,
        "quantize_from": 0.0,
    }  # fmt: skip
    return TrainConfig.from_options(task=glue_task("SST-2"), output_dir=output_dir, **(values | options))


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max(checkpoint_folders(run).values()) / "model.safetensors")


def assert_close_runs(run: Path, reference: Path, *, quantize: bool) -> None:
    """Weights, ranges and losses of two runs whose sums were taken in another order.

    A float32 sum of some hundred terms in another order differs by 1e-6 or so. AdamW's first steps have the size of the
    learning rate whatever the gradient, and divide by its root mean square, so where a gradient is nearly zero the
    noise counts in full: the mean is what is held tightly, to two thousandths of the path, 11e-3 long: 20 steps of
    rates that rise to 1e-3 and fall again.

    With quantization a rounding tie may fall otherwise, on one CPU and not on another, and the codes after it too; what
    then holds is that the runs stay together, to a tenth of that path.
    """
    mean, ranges, loss = (1e-3, 5e-2, 5e-2) if quantize else (2e-5, 0, 2e-3)
    ours, theirs = last_weights(run), last_weights(reference)
    # softmax does not see a key's bias: its true gradient is zero, and AdamW walks wherever the noise points
    names = [name for name in theirs if "key.bias" not in name]
    difference = torch.cat([(ours[name] - theirs[name]).flatten().abs() for name in names])
    assert float(difference.mean()) < mean
    if quantize:
        amax, expected = (
            load_checkpoint(max(checkpoint_folders(path).values())).ranges.amax() for path in (run, reference)
        )
        torch.testing.assert_close(amax, expected, rtol=ranges, atol=0)
    losses, expected_losses = ([event["loss"] for event in events(path, "train")] for path in (run, reference))
    np.testing.assert_allclose(losses, expected_losses, rtol=loss, atol=1e-4)


# ---- rows and seeds -----------------------------------------------------------------------------


def split_of(n_rows: int) -> TokenizedSplit:
    ids = Rows.of([range(1 + row % 7) for row in range(n_rows)])
    return TokenizedSplit(Encoded(ids, ids), torch.arange(n_rows), ("input_ids",), 0)


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 30), st.integers(0, 5))
def test_steps_pass_over_every_row_once_an_epoch_and_may_begin_anywhere(
    n_rows: int, rows_per_step: int, start: int, seed: int
) -> None:
    split = split_of(n_rows)
    per_epoch = split.steps_per_epoch(rows_per_step)
    steps = list(itertools.islice(split.training_steps(rows_per_step, seed=seed, start=0), start + 2 * per_epoch))
    for epoch in range(2):
        rows = np.concatenate(steps[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(rows.tolist()) == list(range(n_rows))
    later = itertools.islice(split.training_steps(rows_per_step, seed=seed, start=start), per_epoch)
    for ours, theirs in zip(later, steps[start:], strict=False):
        np.testing.assert_array_equal(ours, theirs)


@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 5))
def test_processes_and_passes_share_a_steps_rows_without_repeats(
    n_rows: int, batch_size: int, n_processes: int
) -> None:
    rows = np.arange(n_rows) * 3
    shares = [shared_out(rows, batch_size, rank=rank, n_processes=n_processes) for rank in range(n_processes)]
    parts = [part for share in shares for part in share]
    assert sorted(row for part in parts for row in part) == rows.tolist()
    assert all(0 < len(part) <= batch_size for part in parts)
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_every_draw_has_a_seed_of_its_own() -> None:
    keys = itertools.product(range(2), range(20), range(3), range(3))
    seeds = [step_seed(seed, step=step, rank=rank, part=part) for seed, step, rank, part in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


# ---- the same training in other portions ---------------------------------------------------------


@pytest.fixture(scope="module", params=[True, False], ids=["int8", "float32"])
def quantize(request: pytest.FixtureRequest) -> bool:
    value: bool = request.param
    return value


@pytest.fixture(scope="module")
def reference(small: Any, quantize: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of 32 rows on the torch engine."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train(config(small, run, max_steps=20, quantize=quantize))
    return run


def test_engines_stay_together_over_twenty_steps(small: Any, tmp_path: Path, reference: Path, quantize: bool) -> None:
    train(config(small, tmp_path / "run", engine="ort", max_steps=20, quantize=quantize))
    assert_close_runs(tmp_path / "run", reference, quantize=quantize)


@pytest.mark.slow
@pytest.mark.skipif(
    not installed_ort_build().builds_gradients, reason="needs onnxruntime-training or onnxruntime-training-cpu 1.19.2"
)
def test_gradients_by_onnxruntime_training_stay_with_torchs(
    small: Any, tmp_path: Path, reference: Path, quantize: bool
) -> None:
    options = {"max_steps": 20, "quantize": quantize, "gradients": "onnxruntime-training"}
    train(config(small, tmp_path / "run", engine="ort", **options))
    assert_close_runs(tmp_path / "run", reference, quantize=quantize)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "ort"])
def test_accumulated_passes_train_like_one_pass(
    small: Any, tmp_path: Path, reference: Path, engine: str, quantize: bool
) -> None:
    options = {"max_steps": 20, "batch_size": 8, "gradient_accumulation": 4, "quantize": quantize}
    train(config(small, tmp_path / "run", engine=engine, **options))
    assert_close_runs(tmp_path / "run", reference, quantize=quantize)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "ort"])
def test_two_processes_train_like_one_with_the_doubled_batch(
    small: Any, tmp_path: Path, reference: Path, engine: str, quantize: bool
) -> None:
    options = {"max_steps": 20, "batch_size": 16, "quantize" if quantize else "no-quantize": None, "json": None}
    done = torchrun(2, small, tmp_path / "run", engine=engine, **options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_steps"] == 20  # one object, of the first process
    assert_close_runs(tmp_path / "run", reference, quantize=quantize)
    assert events(tmp_path / "run", "dev")[0]["accuracy"] == pytest.approx(
        events(reference, "dev")[0]["accuracy"], abs=0.05
    )


@pytest.fixture(scope="module")
def learned(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of 32 rows with learned ranges on the torch engine."""
    run = tmp_path_factory.mktemp("learned") / "run"
    train(config(small, run, max_steps=20, ranges="learned"))
    return run


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"engine": "ort"}, id="ort"),
        pytest.param({"batch_size": 8, "gradient_accumulation": 4}, id="accumulated", marks=pytest.mark.slow),
        pytest.param({"processes": 2, "batch_size": 16}, id="two processes", marks=pytest.mark.slow),
    ],
)
def test_learned_ranges_stay_together_over_twenty_steps(
    small: Any, tmp_path: Path, learned: Path, options: dict[str, Any]
) -> None:
    shared = {"max_steps": 20, "ranges": "learned", **options}
    if n_processes := shared.pop("processes", 0):
        done = torchrun(n_processes, small, tmp_path / "run", engine="torch", **shared)
        assert done.returncode == 0, done.stderr
    else:
        train(config(small, tmp_path / "run", **shared))
    assert_close_runs(tmp_path / "run", learned, quantize=True)
    ours, theirs = (load_checkpoint(checkpoint_folders(run)[20]).ranges for run in (tmp_path / "run", learned))
    assert isinstance(ours, LearnedRanges)
    assert isinstance(theirs, LearnedRanges)
    # rates sum up to 11e-3, ten times that for ranges; a tie that falls otherwise may turn a small gradient about
    assert float((ours.log_amax - theirs.log_amax).abs().mean()) < 0.1 * 0.11


def test_learned_ranges_start_where_calibration_ends_move_and_are_frozen(small: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 10, "save_every": 1, "keep_checkpoints": 10}
    train(config(small, tmp_path / "learned", **options, ranges="learned", freeze_ranges_from=0.5))
    # as good as frozen at once: these are what calibration gave
    train(config(small, tmp_path / "ema", **options, freeze_ranges_from=0.01))
    ours, theirs = (
        [load_checkpoint(path).ranges for path in checkpoint_folders(tmp_path / name).values()]
        for name in ("learned", "ema")
    )
    rates = [event["learning_rate"] for event in events(tmp_path / "learned", "train")]
    # Adam's first step is as long as the rate, for every range with a gradient
    first = (ours[0].amax() / theirs[0].amax()).log().abs()
    torch.testing.assert_close(first, torch.full_like(first, 10 * rates[0]), rtol=2e-2, atol=0)
    assert not torch.equal(ours[3].amax(), ours[4].amax())
    assert all(torch.equal(later.amax(), ours[4].amax()) for later in ours[5:])
    assert [later.count for later in ours] == [1, 2, 3, 4, 5, 5, 5, 5, 5, 5]


@pytest.mark.slow
def test_two_processes_learn_from_one_teacher_as_one_process_does(small: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 20, "quantize_from": 0.5, "teacher": "twin", "engine": "torch"}
    train(config(small, tmp_path / "one", **options))
    options |= {"batch_size": 16, "save_every": 3, "keep_checkpoints": 9}
    assert torchrun(2, small, tmp_path / "two", **options).returncode == 0
    assert_close_runs(tmp_path / "two", tmp_path / "one", quantize=True)
    ours, theirs = (load_file(tmp_path / run / "teacher.safetensors")["outputs"] for run in ("two", "one"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-2)  # of weights that lie as far apart as the runs do
    # both read what is kept, and go on with it
    expected = last_weights(tmp_path / "two")
    for step, folder in checkpoint_folders(tmp_path / "two").items():
        if step > 12:
            shutil.rmtree(folder)
    done = torchrun(2, small, tmp_path / "two", **options)
    assert done.returncode == 0, done.stderr
    assert "going on from step 12" in done.stderr
    assert "is asked for its outputs" not in done.stderr
    for name, weight in last_weights(tmp_path / "two").items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.slow
def test_a_dying_process_ends_the_job_which_then_goes_on(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more: dict[str, Any] = {"engine": "torch", "max_steps": 400, "batch_size": 16, "save_every": 5, "eval_every": 200}
    job = subprocess.Popen(
        torchrun_command(2, small, run, **more), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 120
    while not checkpoint_folders(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process_of_rank(job.pid, 1), signal.SIGKILL)
    _, stderr = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "SIGKILL" in stderr or "Signal 9" in stderr
    step = max(checkpoint_folders(run))
    assert 5 <= step < 400
    done = torchrun(2, small, run, **more)
    assert done.returncode == 0, done.stderr
    assert f"going on from step {step}" in done.stderr


def test_a_run_of_another_number_of_processes_is_refused(
    small: Any, reference: Path, tmp_path: Path, quantize: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | {"processes": 2}))
    with pytest.raises(CheckpointError, match="processes 2 there, 1 asked"):
        train(config(small, run, max_steps=20, quantize=quantize))


@pytest.mark.slow
def test_a_refusal_of_the_first_process_is_no_defect_of_the_others(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(small, run, max_steps=1))
    done = torchrun(2, small, run, max_steps=20, batch_size=16)
    assert done.returncode != 0
    assert "holds a run with other options" in done.stderr
    assert "this is a defect of q8bert" not in done.stderr
    assert "another process of this job ended or does not answer" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "message", "remedy"),
    [
        # a folder of its own for each process, as on machines without a common disk
        ("--output-dir", r"on whether \S+run1 holds the run \(here False\)", "must be a folder that all share"),
        (
            "--dropout",
            "on options, data and model",
            "Give every process the same options, the same data and the same model",
        ),
    ],
)
def test_processes_that_are_told_different_things_are_refused(
    small: Any, tmp_path: Path, option: str, message: str, remedy: str
) -> None:
    script = (
        "import os, sys; from q8bert.training.__main__ import main; "
        f"sys.argv[sys.argv.index('{option}') + 1] += os.environ['RANK']; main()"
    )
    command = torchrun_command(2, small, tmp_path / "run", max_steps=4, batch_size=16, engine="torch", dropout=0.0)
    at = command.index("q8bert.training")
    (tmp_path / "script.py").write_text(script)
    command[at - 1 : at + 1] = [str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())  # messages are wrapped
    assert re.search(f"the processes do not agree {message}", said)
    assert remedy in said


@pytest.mark.slow
def test_weights_that_drift_apart_end_the_job_before_they_are_written(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = """
        import os, torch
        from q8bert.training.loop import trainer
        take_step = trainer.take_step

        def drift(state, given, *, weights, **more):
            state, report = take_step(state, given, weights=weights, **more)
            if os.environ["RANK"] == "1" and state.progress.step == 6:
                bias = weights.masters["classifier.bias"].data
                bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
            return state, report

        trainer.take_step = drift
        from q8bert.training.__main__ import main
        main()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    command = torchrun_command(2, small, run, max_steps=12, batch_size=16, engine="torch", save_every=4, eval_every=12)
    at = command.index("q8bert.training")
    command[at - 1 : at + 1] = [str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())  # messages are wrapped
    assert "the processes do not agree on the weights: they have drifted apart" in said
    assert "this is a defect of q8bert" not in said
    assert list(checkpoint_folders(run)) == [4]


def torchrun_command(n_processes: int, small: Any, run: Path, **more: Any) -> list[str]:
    values = {
        "task": "SST-2", "data-dir": small.data("SST-2"), "model": small.model, "output-dir": run, "quantize-from": 0.0,
        "learning-rate": 1e-3, "max-length": 32, "threads": 1, "log-every": 1,
    } | {name.replace("_", "-"): value for name, value in more.items()}  # fmt: skip
    options = [text for name, value in values.items() for text in (f"--{name}", str(value)) if value is not None]
    options += [f"--{name}" for name, value in values.items() if value is None]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    return [*launcher, "-m", "q8bert.training", *options]


def torchrun(n_processes: int, small: Any, run: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    command = torchrun_command(n_processes, small, run, **more)
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def process_of_rank(parent: int, rank: int) -> int:
    """Return the id of a child process that torchrun started with a rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f" {parent} " not in (path / "stat").read_text().rpartition(")")[2][:20]:
                continue
            if f"RANK={rank}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:  # it ended meanwhile
            continue
    raise AssertionError(f"torchrun has no process of rank {rank}")


# ---- what happens when ---------------------------------------------------------------------------


def test_steps_decide_evaluations_and_checkpoints(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(config(small, run, max_steps=25, eval_every=10, save_every=4, keep_checkpoints=3))
    assert result.n_steps == 25
    assert [event["step"] for event in events(run, "dev")] == [10, 20, 25]
    # due at 4, 8, 10, 12, 16, 20, 24, 25: the newest three, and the best
    assert set(checkpoint_folders(run)) == {20, 24, 25} | {result.best_step}
    train_losses = [event["loss"] for event in events(run, "train")]
    assert events(run, "dev")[1]["train_loss"] == pytest.approx(np.mean(train_losses[10:20]))
    rates = [event["learning_rate"] for event in events(run, "train")]
    # two steps of warm-up (a tenth of 25, rounded down), then linear to 0 at step 25
    assert rates[:3] == pytest.approx([0.5e-3, 1e-3, 1e-3])
    assert rates[-1] == pytest.approx(1e-3 / 23)


def test_training_stops_when_the_score_rises_no_more(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # a learning rate of next to nothing: no evaluation can be better than the first
    result = train(config(small, run, max_steps=40, eval_every=2, patience=3, learning_rate=1e-12))
    assert result.n_steps == 8
    assert result.best_step == 2
    # float evaluations do not count: the first quantized one is that of step 12
    late = train(
        config(
            small, tmp_path / "late", max_steps=40, eval_every=4, patience=3, learning_rate=1e-12, quantize_from=0.25
        )
    )
    assert (late.best_step, late.n_steps) == (12, 24)
    assert len(events(run, "dev")) == 4
    assert train(config(small, run, max_steps=40, eval_every=2, patience=3, learning_rate=1e-12)).n_steps == 8


def test_frozen_ranges_stay_as_they_are(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(small, run, max_steps=10, save_every=1, keep_checkpoints=10, freeze_ranges_from=0.5))
    averages = [load_checkpoint(path).ranges.average for path in checkpoint_folders(run).values()]
    assert not torch.equal(averages[3], averages[4])
    assert all(torch.equal(average, averages[4]) for average in averages[5:])


@pytest.mark.parametrize("percentile", [99.99, 95.0])
def test_ranges_of_a_percentile_are_those_of_calibration_to_the_end(
    small: Any, tmp_path: Path, percentile: float
) -> None:
    options = config(
        small, tmp_path / "run", max_steps=8, quantize_from=0.5, eval_every=4, calibration_batches=1, learning_rate=1e-2,
        smoothing=False, zero_points=False, ranges="percentile", range_percentile=percentile,
    )  # fmt: skip
    train(options)
    folders = checkpoint_folders(tmp_path / "run")
    last = load_checkpoint(folders[8])
    found = values_read(small, options, folders[4], [site.linears[0] for site in last.sites])
    expected = []
    for values in found:
        ordered = np.sort(values)
        rank = int(np.ceil(percentile / 100 * len(ordered)))  # nearest rank, counted from 1 at either end
        expected.append(max(ordered[rank - 1], -ordered[len(ordered) - rank]))
    assert last.ranges.count == 1
    np.testing.assert_allclose(last.ranges.amax(), expected, rtol=1e-5)
    largest = np.array([np.abs(values).max() for values in found])
    assert (np.array(expected) < 0.99 * largest).all() == (percentile < 99)


@pytest.mark.parametrize("engine", ["torch", "ort"])
def test_quantization_can_start_late(small: Any, tmp_path: Path, engine: str) -> None:
    late, plain, early = tmp_path / "late", tmp_path / "plain", tmp_path / "early"
    shared = {"engine": engine, "max_steps": 12, "eval_every": 4, "keep_checkpoints": 3}
    result = train(config(small, late, quantize_from=2 / 3, **shared))
    floats_result = train(config(small, plain, quantize=False, quantize_from=2 / 3, **shared))
    train(config(small, early, **shared))
    ours, floats, quantized = ([event["loss"] for event in events(path, "train")] for path in (late, plain, early))
    assert ours[:8] == floats[:8]
    assert ours[8] != floats[8]
    assert ours[0] != quantized[0]
    # scores up to there are the float model's and no rival to later ones
    scores, float_scores = ([event["accuracy"] for event in events(path, "dev")] for path in (late, plain))
    assert scores[:2] == float_scores[:2]
    assert [event["quantized"] for event in events(late, "dev")] == [False, False, True]
    assert not any(event["quantized"] for event in events(plain, "dev"))
    assert result.best_step == 12
    assert best_checkpoint(late).progress.step == result.best_step
    # the twin chooses among as many; what the last evaluation gave stands beside the best in both
    for path, finished in ((late, result), (plain, floats_result)):
        assert [event["candidate"] for event in events(path, "dev")] == [False, False, True]
        assert [event["best_step"] for event in events(path, "dev")] == [0, 0, 12]
        assert finished.last_metrics["accuracy"] == events(path, "dev")[-1]["accuracy"]
    # until then nothing is observed; then calibration's eight batches, and the quantized steps
    checkpoints = [load_checkpoint(path) for path in checkpoint_folders(late).values()]
    assert [(item.progress.step, len(item.sites), item.ranges.count) for item in checkpoints] == [
        (4, 0, 0), (8, 0, 0), (12, 10, 8 + 4),
    ]  # fmt: skip


def test_twins_share_the_program_of_the_float_phase(
    small: Any, tmp_path: Path, built: Callable[..., Programs], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, built_for, cache = programs_module.build_programs, [], tmp_path / "cache"

    def count(model: Any, sites: tuple[Site, ...], *parts: Any, **more: Any) -> Programs:
        built_for.append("int8" if sites else "float32")
        with monkeypatch.context() as patch:
            patch.setattr(programs_module, "build_programs", build)
            return built(model, sites, *parts, **more)

    monkeypatch.setattr(programs_module, "build_programs", count)
    shared: dict[str, Any] = {"engine": "ort", "max_steps": 2, "cache_dir": cache}
    train(config(small, tmp_path / "plain", quantize=False, **shared))
    (entry,) = cache.iterdir()
    n_entries: list[int] = []
    train(
        config(small, tmp_path / "late", quantize_from=0.5, **shared),
        show_step=lambda *_: n_entries.append(len(list(cache.iterdir()))),
    )
    assert n_entries == [1, 2]
    assert built_for == ["float32", "int8"]
    assert entry.is_file()


def test_first_ranges_are_those_of_the_model_as_it_is_when_quantization_starts(small: Any, tmp_path: Path) -> None:
    # frozen at once, so what calibration gave is what the run ends with
    options = config(
        small, tmp_path / "run", max_steps=8, quantize_from=0.5, freeze_ranges_from=0.55, eval_every=4,
        calibration_batches=1, smoothing=False, zero_points=False, learning_rate=1e-2,
    )  # fmt: skip
    train(options)
    folders = checkpoint_folders(tmp_path / "run")
    last = load_checkpoint(folders[8])
    names = [site.linears[0] for site in last.sites]
    largest = [np.abs(values).max() for values in values_read(small, options, folders[4], names)]
    assert last.ranges.count == 1
    np.testing.assert_allclose(last.ranges.amax(), largest, rtol=1e-5)


def values_read(small: Any, options: TrainConfig, checkpoint: Path, linears: list[str]) -> list[NDArray[np.float32]]:
    """What Linear layers of a checkpoint of step 4 read in the step after it, padding left out."""
    model = BertForSequenceClassification.from_pretrained(checkpoint).eval()
    rows = next(prepare(options, torch.device("cpu"), print).train.training_steps(32, seed=options.seed, start=4))
    texts = [example.text for example in read_split(options.task, small.data("SST-2"), "train").examples]
    inputs = AutoTokenizer.from_pretrained(small.model)([texts[row] for row in rows], return_tensors="pt", padding=True)
    found: dict[str, NDArray[np.float32]] = {}
    for name in linears:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: found.update({name: tokens_of(args[0], inputs, name).flatten().numpy()})
        )
    with torch.no_grad():
        model(**inputs)
    return [found[name] for name in linears]


def tokens_of(x: torch.Tensor, inputs: Any, linear: str) -> torch.Tensor:
    if x.dim() == 2:
        return x
    # of the last layer, the classifier reads the first token alone
    is_after_attention = linear.startswith("bert.encoder.layer.1") and "attention.self" not in linear
    return x[:, 0] if is_after_attention else x[inputs["attention_mask"].bool()]


def test_a_float_checkpoint_of_earlier_days_which_has_sites_is_gone_on_from(small: Any, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = {"max_steps": 8, "quantize_from": 0.75, "save_every": 4, "eval_every": 8}
    train(config(small, whole, **options))

    def stop(step: int, *_: Any) -> None:
        if step == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config(small, cut, **options), show_step=stop)
    # once, a run observed from its first step on, and its sites were smoothed from there
    first, *others = load_checkpoint(checkpoint_folders(whole)[8]).sites
    sites = (replace(first, smoothing=(1,) * 32), *others)
    folder = checkpoint_folders(cut)[4]
    state = json.loads((folder / "state.json").read_text())
    kept = [{"name": site.name, "linears": site.linears, "smoothing": site.smoothing} for site in sites]
    state |= {"sites": kept, "range_count": 12, "files": {}}
    (folder / "state.json").write_text(json.dumps(state))
    save_file({"average": torch.full((len(sites),), 9.0, dtype=torch.float64)}, folder / "ranges.safetensors")
    train(config(small, cut, **options))
    for name, weight in last_weights(whole).items():
        assert torch.equal(last_weights(cut)[name], weight), name
    assert torch.equal(*(load_checkpoint(checkpoint_folders(run)[8]).ranges.average for run in (whole, cut)))


def test_a_run_without_a_quantized_evaluation_has_no_best_checkpoint(small: Any, tmp_path: Path) -> None:
    train(config(small, tmp_path / "run", max_steps=4, eval_every=2, quantize_from=0.75, keep_checkpoints=2))
    shutil.rmtree(checkpoint_folders(tmp_path / "run")[4])
    with pytest.raises(CheckpointError, match="no checkpoint was evaluated yet, or only ones that may not be the best"):
        best_checkpoint(tmp_path / "run")


# ---- layers left in float ------------------------------------------------------------------------


def test_layers_are_kept_in_float_by_name(small: Any, tmp_path: Path) -> None:
    result = train(config(small, tmp_path / "run", max_steps=4, keep_float=("classifier", "*.token_type_embeddings")))
    assert result.float_layers == ("bert.embeddings.token_type_embeddings", "classifier")
    sites = best_checkpoint(tmp_path / "run").sites
    assert not any("classifier" in linear for site in sites for linear in site.linears)
    assert any("pooler" in linear for site in sites for linear in site.linears)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("decoder.*",), r"no layer matches decoder\.\*; there are bert\.embeddings"),
        (("*",), "leaves no Linear to quantize"),
    ],
)
def test_patterns_that_match_nothing_or_everything_are_refused(
    small: Any, tmp_path: Path, patterns: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        train(config(small, tmp_path / "run", keep_float=patterns))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"max_steps": -1}, "max_steps must be 0 or more, got -1"),
        ({"gradient_accumulation": 0}, "gradient_accumulation must be at least 1"),
        ({"quantize_from": 0.5, "freeze_ranges_from": 0.4}, "must come after quantize_from"),
        ({"freeze_ranges_from": 0.0}, "freeze_ranges_from must be above 0"),
        ({"keep_float": ("classifier",), "quantize": False}, "but quantize is False"),
        ({"ranges": "minmax"}, "ranges must be one of ema, learned, percentile, got 'minmax'"),
        ({"range_percentile": 99.0}, r"range_percentile \(99.0\) is of ranges percentile, got ema"),
        ({"ranges": "percentile", "freeze_ranges_from": 0.9}, "is of ranges that move; percentile has none"),
        ({"range_percentile": 101.0}, "range_percentile must be above 50 and at most 100"),
        ({"range_rate_ratio": 2.0}, r"range_rate_ratio \(2.0\) is of learned ranges, got ranges ema"),
        (
            {"ranges": "learned", "engine": "ort", "gradients": "onnxruntime-training"},
            "ranges learned need gradients torch",
        ),
        ({"device": "gpu"}, "device must be cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    small: Any, tmp_path: Path, given_options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(config(small, tmp_path / "run", **given_options))
