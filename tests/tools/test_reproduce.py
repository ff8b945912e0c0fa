"""The campaign over tasks and seeds: its statistics against other libraries, its rows, its table, its resumption."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import one of the campaign's parts by its name."""
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module


def metric_of(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy import stats
    from sklearn import metrics

    oracle = {
        "accuracy": lambda: metrics.accuracy_score(labels, predictions),
        "f1": lambda: metrics.f1_score(labels, predictions),
        "matthews": lambda: metrics.matthews_corrcoef(labels, predictions),
        "pearson": lambda: stats.pearsonr(predictions, labels).statistic,
    }
    return float(oracle[name]())


@pytest.mark.parametrize(
    ("name", "n_labels"), [("accuracy", 3), ("f1", 2), ("matthews", 2), ("matthews", 3), ("pearson", 0)]
)
def test_rows_that_count_several_times_score_like_rows_that_stand_there_several_times(
    tool: Any, name: str, n_labels: int
) -> None:
    draw = np.random.default_rng(3)
    if n_labels:
        labels = draw.integers(0, n_labels, 50)
        predictions = np.where(draw.random(50) < 0.7, labels, draw.integers(0, n_labels, 50))
    else:
        labels = draw.random(50) * 5
        predictions = labels + draw.normal(size=50)
    counts = tool("reproduction.statistics").draws(50, seed=1)[:20]
    found = tool("reproduction.statistics").weighted_metric(name, predictions, labels, counts)
    for value, times in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(50), times.astype(int))
        assert value == pytest.approx(metric_of(name, predictions[rows], labels[rows]), abs=1e-12)


def test_the_interval_is_that_of_a_plain_bootstrap_and_holds_the_difference(tool: Any) -> None:
    statistics, draw = tool("reproduction.statistics"), np.random.default_rng(5)
    labels = draw.integers(0, 2, 400)
    wrong = lambda share: np.where(draw.random(400) < share, 1 - labels, labels)  # noqa: E731 - one line, used here
    theirs, ours = {seed: wrong(0.2) for seed in range(5)}, {seed: wrong(0.1) for seed in range(5)}
    found = statistics.compare("accuracy", labels, ours, theirs, counts=statistics.draws(400, seed=0))
    plain = []
    for _ in range(2000):
        rows, seeds = draw.integers(0, 400, 400), draw.integers(0, 5, 5)
        right = [[(of[seed][rows] == labels[rows]).mean() for seed in seeds] for of in (ours, theirs)]
        plain.append(100 * (np.mean(right[0]) - np.mean(right[1])))
    low, high = np.percentile(plain, [2.5, 97.5])
    assert found.interval.mean == pytest.approx(
        100 * np.mean([(ours[s] == labels).mean() - (theirs[s] == labels).mean() for s in range(5)])
    )
    assert found.interval.low == pytest.approx(low, abs=0.35)  # two bootstraps of 2000 draws
    assert found.interval.high == pytest.approx(high, abs=0.35)


def test_equal_predictions_differ_by_nothing(tool: Any) -> None:
    statistics = tool("reproduction.statistics")
    labels = np.random.default_rng(0).random(30)
    same = {1: labels + 1, 2: labels * 2}
    interval = statistics.compare("pearson", labels, same, same, counts=statistics.draws(30, seed=0)).interval
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_the_distance_is_the_share_of_other_labels_or_what_a_variance_leaves_unexplained(tool: Any) -> None:
    from sklearn import metrics

    distance, draw = tool("reproduction.statistics").distance, np.random.default_rng(7)
    ours, theirs = draw.integers(0, 3, (2, 60))
    assert distance(ours, theirs) == pytest.approx(1 - metrics.accuracy_score(theirs, ours), abs=1e-12)
    scores = draw.normal(2, 3, 60)
    near = scores + draw.normal(0, 0.1, 60)
    assert distance(near, scores) == pytest.approx(1 - metrics.r2_score(scores, near), rel=1e-9)
    assert (distance(theirs, theirs), distance(scores, scores)) == (0, 0)


def write_sst2(folder: Path, *, n_train: int, n_dev: int) -> None:
    folder.mkdir(parents=True)
    for name, n_rows in (("train", n_train), ("dev", n_dev)):
        rows = [f"{name} {'good' if row % 2 else 'bad'} {row}\t{row % 2}" for row in range(n_rows)]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")


def test_held_out_rows_are_training_rows_that_nothing_is_trained_on(tool: Any, tmp_path: Path) -> None:
    from q8bert.tasks.glue import glue_task

    write_sst2(tmp_path / "SST-2", n_train=50, n_dev=7)
    prepare = tool("reproduction.data").prepare_rows
    rows = prepare(glue_task("SST-2"), tmp_path / "SST-2", tmp_path / "part", n_train=20, held_out=0.2)
    train, scored = (
        set((rows.folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]) for name in ("train", "dev")
    )
    assert (len(train), len(scored), rows.n_train, rows.scored_on) == (20, 10, 20, "held-out")
    assert not train & scored
    assert all(row.startswith("train") for row in train | scored)


def test_a_part_of_dev_is_scored_and_the_table_says_of_how_many(tool: Any, tmp_path: Path) -> None:
    from q8bert.tasks.glue import glue_task

    write_sst2(tmp_path / "SST-2", n_train=50, n_dev=7)
    prepare = tool("reproduction.data").prepare_rows
    rows = prepare(glue_task("SST-2"), tmp_path / "SST-2", tmp_path / "part", n_train=0, held_out=0, n_scored=3)
    train, scored, dev = (
        (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        for folder, name in ((rows.folder, "train"), (rows.folder, "dev"), (tmp_path / "SST-2", "dev"))
    )
    assert (len(train), len(scored), rows.n_train, rows.scored_on, rows.n_dev) == (51, 4, 50, "dev", 7)
    assert scored[0] == dev[0]
    assert len(set(scored[1:]) & set(dev[1:])) == 3
    whole = prepare(glue_task("SST-2"), tmp_path / "SST-2", tmp_path / "whole", n_train=0, held_out=0, n_scored=9)
    assert whole.n_dev is None
    assert (whole.folder / "dev.tsv").read_text(encoding="utf-8").count("\n") == 8


def test_modes_that_do_not_exist_or_names_taken_twice_are_refused(tool: Any) -> None:
    chosen = tool("reproduction.modes").chosen_modes
    assert [mode.name for mode in chosen(["qat"], [("early", "--quantize-from 0.25")])] == ["fp32", "qat", "early"]
    for names, variants, one_shot_variants, taken in [
        ([], [("qat", "")], [], "'qat'"),
        ([], [], [("qat", "")], "'qat'"),
        (["qat"], [("early", "--quantize-from 0.25")], [("early", "--no-smoothing")], "'early'"),
    ]:
        with pytest.raises(ValueError, match=f"names taken: \\[{taken}\\]"):
            chosen(names, variants, one_shot_variants)
    with pytest.raises(ValueError, match="unknown: \\['dynamic'\\]"):
        chosen(["dynamic"], [])


def test_a_variant_is_a_name_and_options_that_may_begin_with_dashes(tool: Any) -> None:
    named = tool("reproduce").named_options
    assert named("early=--quantize-from 0.25") == ("early", "--quantize-from 0.25")
    assert named("plain=--no-smoothing") == ("plain", "--no-smoothing")
    assert named("none=") == ("none", "")
    for text in ("early", "=--no-smoothing", "a/b=--no-smoothing", "--no-smoothing"):
        with pytest.raises(ArgumentTypeError, match="NAME=OPTIONS"):
            named(text)


def test_a_variant_of_one_shot_quantization_is_made_of_the_twin_with_its_options(tool: Any) -> None:
    *_, mode = tool("reproduction.modes").chosen_modes(["qat"], [], [("plain", "--no-smoothing --no-zero-points")])
    assert (mode.name, mode.train, mode.export) == ("plain", None, ("quantize", "--no-smoothing", "--no-zero-points"))


def test_only_variants_that_change_float_steps_train_their_own(tool: Any) -> None:
    variants = {
        "shared": "--ranges learned --range-rate-ratio 5 --teacher twin --average-weights 0.1 --no-zero-points",
        "early": "--quantize-from 0.25",
        "slow": "--learning-rate 5e-5 --ranges learned",
        "dropped": "--dropout=0.1",
        "taught": "--teacher runs/large",
        "first": "--quantize-from 0",
        "unshuffled": "--no-shuffle",
    }
    modes = tool("reproduction.modes").chosen_modes(["qat", "qat-distilled"], list(variants.items()))
    assert [mode.name for mode in modes if mode.has_own_float_steps] == [
        "early", "slow", "dropped", "taught", "first", "unshuffled",
    ]  # fmt: skip


def test_a_mode_whose_package_is_absent_is_left_out_and_refused_where_it_is_asked_for(
    tool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = tool("reproduction.modes")
    monkeypatch.setattr(modes, "find_spec", lambda name: None)
    assert "nncf" not in [mode.name for mode in modes.chosen_modes([], [])]
    with pytest.raises(ValueError, match="nncf is not installed; `pip install --group peers`"):
        modes.chosen_modes(["nncf"], [])


def test_seeds_of_one_mode_with_different_options_are_not_averaged(tool: Any) -> None:
    record, table = tool("reproduction.record"), tool("reproduction.table")
    common = {
        "task": "SST-2", "mode": "qat", "model": "small", "rows": {"train": 4, "official": 4, "scored": 2, "scored_on": "dev"},
        "metrics": {"accuracy": 0.5}, "main_metric": "accuracy", "predictions": "01", "labels": "00", "training": {},
        "bundle": {"bytes": 1}, "seconds": {},
        "identity": {"source": "0", "is_clean": True, "commit": "", "machine": {"n_cpus": 1, "cpu": "x"}, "versions": {}},
    }  # fmt: skip
    alike = [record.Result(seed=seed, options=["--epochs", "2"], **common) for seed in (1, 2)]
    assert "50.00 ± 0.00" in table.render(alike)
    assert "| 4 train, 2 dev |" in table.render(alike)
    part = {**common, "rows": {**common["rows"], "dev": 9}}
    assert "| 4 train, 2 of 9 dev |" in table.render([record.Result(seed=1, options=[], **part)])
    with pytest.raises(table.MixedResultsError, match="the results of SST-2 are of different options of qat"):
        table.render([*alike, record.Result(seed=3, options=["--epochs", "3"], **common)])


def test_a_folder_without_results_is_said(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("reproduce").main(["--table", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: there are no results\n"


def test_a_command_without_an_answer_fails_and_names_its_log(tool: Any, tmp_path: Path) -> None:
    commands = tool("reproduction.commands")
    log = tmp_path / "log"
    with pytest.raises(commands.CommandError, match=rf"q8bert nonsense --json exited with 2: .+; see {log}"):
        commands.Commands().run(["nonsense", "--json"], log=log, answer=tmp_path / "answer")
    assert "nonsense" in log.read_text()


def test_what_is_under_way_can_be_stopped_and_nothing_is_begun_after_it(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tool("reproduction.commands")
    monkeypatch.setattr(
        module, "_Q8BERT", "import sys, time; print('begun', file=sys.stderr, flush=True); time.sleep(600)"
    )
    commands, log = module.Commands(), tmp_path / "log"

    def stop() -> None:
        while not (log.exists() and log.read_text()):
            time.sleep(0.01)
        commands.stop()

    threading.Thread(target=stop).start()
    with pytest.raises(module.CommandError, match="q8bert train was interrupted"):
        commands.run(["train"], log=log, answer=tmp_path / "answer")
    with pytest.raises(module.CommandError, match="q8bert export was not begun"):
        commands.run(["export"], log=log, answer=tmp_path / "answer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number"),
    [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)],  # as a terminal does, to all; as `kill` does, to the tool
)
def test_ctrl_c_or_kill_ends_the_campaign_without_a_word_of_python(
    tool: Any, tmp_path: Path, small: Any, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    write_sst2(tmp_path / "glue" / "SST-2", n_train=40, n_dev=20)
    command = [
        sys.executable, str(TOOLS / "reproduce.py"), str(tmp_path / "glue"), "--tasks", "SST-2", "--seeds", "11", "12",
        "--model", str(small.model), "--common", "--max-steps 1000000 --max-length 16 --engine torch", "--modes", "qat",
        "--results", str(tmp_path / "results"), "--work-dir", str(tmp_path / "work"), "--threads", "1",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # where the tests run in the background, a shell has told them to ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    while process.poll() is None and not list((tmp_path / "work").rglob("run.json")):
        time.sleep(0.05)
    send(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines() == ["stopped; the same command goes on where it was"]
    with pytest.raises(ProcessLookupError):  # nothing is left behind
        os.killpg(process.pid, 0)


@pytest.mark.slow
def test_a_campaign_goes_on_where_it_was_stopped_and_mixes_no_code(
    tool: Any, tmp_path: Path, small: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sst2(tmp_path / "glue" / "SST-2", n_train=40, n_dev=20)
    main = tool("reproduce").main
    arguments = [
        str(tmp_path / "glue"), "--tasks", "SST-2", "--seeds", "11", "--model", str(small.model),
        "--common", "--max-steps 4 --max-length 16 --engine torch --cache-dir " + str(tmp_path / "cache"),
        "--results", str(tmp_path / "results"), "--work-dir", str(tmp_path / "work"), "--threads", "1",
    ]  # fmt: skip
    assert main([*arguments, "--modes", "qat"]) == 0
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert set(made) == {"fp32-seed11.json", "qat-seed11.json"}
    assert main([*arguments, "--modes", "qat", "ort-dynamic"]) == 0  # the float run is made again for the new mode
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert {name: time for name, time in again.items() if name in made} == made
    assert "ort-dynamic-seed11.json" in again
    table = capsys.readouterr().out
    assert "40 of 67,349 train, 20 dev" in table

    others = [*arguments[:8], arguments[8].replace("--max-steps 4", "--max-steps 5"), *arguments[9:]]
    assert (
        main([*others, "--modes", "qat"]) == 1
    )  # what is there was made with other options, and is not taken for them
    said = capsys.readouterr().err
    assert "fp32-seed11.json was made from" in said
    assert "--max-steps 5" in said

    result = next(path for path in (tmp_path / "results").rglob("qat-seed11.json"))
    kept = json.loads(result.read_text(encoding="utf-8"))
    assert kept["bundle"]["precision"].startswith("int8")
    assert (
        sum(a == b for a, b in zip(kept["predictions"], kept["labels"], strict=True)) / 20
        == kept["metrics"]["accuracy"]
    )

    kept["identity"]["source"] = "0" * 12
    (result.parent / "other-seed11.json").write_text(json.dumps(kept), encoding="utf-8")
    assert main(["--table", str(tmp_path / "results")]) == 2
    assert "different code" in capsys.readouterr().err
    assert main(["--table", str(tmp_path / "results"), "--source", "000"]) == 0


@pytest.mark.slow
def test_a_campaign_without_float_steps_trains_each_model_whole(tool: Any, tmp_path: Path, small: Any) -> None:
    write_sst2(tmp_path / "glue" / "SST-2", n_train=40, n_dev=20)
    arguments = [
        str(tmp_path / "glue"), "--tasks", "SST-2", "--seeds", "11", "--model", str(small.model), "--modes", "qat",
        "--common", "--max-steps 4 --max-length 16 --engine torch --quantize-from 0", "--threads", "1",
        "--results", str(tmp_path / "results"), "--work-dir", str(tmp_path / "work"),
    ]  # fmt: skip
    assert tool("reproduce").main(arguments) == 0
    assert len(list((tmp_path / "results").rglob("*-seed11.json"))) == 2


@pytest.mark.slow
def test_nncf_quantizes_the_same_twin_whose_run_was_kept(tool: Any, tmp_path: Path, small: Any) -> None:
    pytest.importorskip("nncf")
    write_sst2(tmp_path / "glue" / "SST-2", n_train=40, n_dev=20)
    main, work = tool("reproduce").main, tmp_path / "work"
    arguments = [
        str(tmp_path / "glue"), "--tasks", "SST-2", "--seeds", "11", "--model", str(small.model), "--keep-runs",
        "--common", "--max-steps 4 --max-length 16 --engine torch --cache-dir " + str(tmp_path / "cache"),
        "--results", str(tmp_path / "results"), "--work-dir", str(work), "--threads", "1", "--modes",
    ]  # fmt: skip
    assert main([*arguments, "ort-dynamic"]) == 0
    (log,) = work.rglob("fp32-run/log.jsonl")
    trained = log.read_bytes()
    assert main([*arguments, "ort-dynamic", "nncf"]) == 0
    assert log.read_bytes() == trained  # a training would have begun a log with other times
    float32, nncf = (
        json.loads(next((tmp_path / "results").rglob(f"{mode}-seed11.json")).read_text()) for mode in ("fp32", "nncf")
    )
    right = [a == b for a, b in zip(nncf["predictions"], nncf["labels"], strict=True)]
    assert nncf["metrics"]["accuracy"] == np.mean(right)
    assert nncf["labels"] == float32["labels"]
    assert nncf["bundle"]["calibration_rows"] == 40  # fewer than 512 are there
    assert set(nncf["bundle"]["versions"]) == {"nncf", "openvino"}
    assert nncf["training"] == {}


@pytest.mark.parametrize(("name", "values"), [("STS-B", [0.0, 4.25, -1.5, 3.33333]), ("MNLI", [2, 0, 1, 1])])
def test_predictions_are_read_as_they_were_written(tool: Any, name: str, values: list[float]) -> None:
    from q8bert.tasks.glue import glue_task

    record = tool("reproduction.record")
    kept = record.encode_predictions(glue_task(name), values)
    assert "\n" not in kept
    np.testing.assert_array_equal(record.decode_predictions(kept), values)
