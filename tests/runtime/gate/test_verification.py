"""The gate passes what is small and good, and nothing else."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from q8bert.runtime import Classifier, RuntimeOptions, evaluate, verify
from q8bert.runtime.engines.kernels import Products
from q8bert.spec.errors import ConfigError, InputError


def model_size(bundle: Path) -> int:
    return (bundle / "model.onnx").stat().st_size


def accuracy(bundle: Path, data: Path) -> float:
    rows = [line.split("\t") for line in (data / "dev.tsv").read_text().splitlines()[1:]]
    predictions = Classifier.load(bundle, threads=1)([text for text, _ in rows])
    return sum(
        prediction.label == ("negative", "positive")[int(code)]
        for prediction, (_, code) in zip(predictions, rows, strict=True)
    ) / len(rows)


@pytest.fixture(scope="module")
def pair(small: Any) -> tuple[Path, Path, Path]:
    """An INT8 bundle, its float twin, their data."""
    return small.bundle("SST-2", "int8"), small.bundle("SST-2", "float32"), small.data("SST-2")


@pytest.fixture
def broken(pair: tuple[Path, Path, Path], altered: Callable[..., Path], edit_weights: Callable[..., bytes]) -> Path:
    """The INT8 bundle with the codes of its larger weights in another order."""
    rng = np.random.default_rng(0)

    def shuffle(codes: bytes) -> bytes:
        return rng.permutation(np.frombuffer(codes, dtype=np.uint8)).tobytes()

    model = (pair[0] / "model.onnx").read_bytes()
    for n_bytes in (32 * 32, 32 * 64):  # attention's output, pooler; feed-forward
        model = edit_weights(model, n_bytes, shuffle)
    return altered(pair[0], files={"model.onnx": model})


def test_twins_pass_with_the_ratio_and_loss_worked_out_by_hand(pair: tuple[Path, Path, Path]) -> None:
    int8, float32, data = pair
    report = verify(int8, float32, data, min_size_ratio=1.5, max_relative_loss=0.1, threads=1)
    ours, base = accuracy(int8, data), accuracy(float32, data)
    assert report.passed
    assert report.failures == ()
    assert report.size_ratio == pytest.approx(model_size(float32) / model_size(int8))
    assert report.metrics == {"accuracy": pytest.approx(ours)}
    assert report.reference_metrics == {"accuracy": pytest.approx(base)}
    assert report.relative_loss == pytest.approx((base - ours) / base)
    assert (report.task, report.split, report.main_metric, report.n_rows) == ("SST-2", "dev", "accuracy", 200)
    assert (report.min_size_ratio, report.max_relative_loss) == (1.5, 0.1)


def test_the_limits_themselves_pass_and_the_next_number_does_not(pair: tuple[Path, Path, Path]) -> None:
    found = verify(*pair, min_size_ratio=0, max_relative_loss=1, threads=1)
    ratio, loss = found.size_ratio, found.relative_loss
    assert verify(*pair, min_size_ratio=ratio, max_relative_loss=loss, threads=1).passed
    too_large = verify(*pair, min_size_ratio=math.nextafter(ratio, 9), max_relative_loss=loss, threads=1)
    too_bad = verify(*pair, min_size_ratio=ratio, max_relative_loss=math.nextafter(loss, -1), threads=1)
    assert not too_large.passed
    assert not too_bad.passed
    assert ["size ratio" in failure for failure in too_large.failures] == [True]
    assert ["relative loss" in failure for failure in too_bad.failures] == [True]


def test_a_gain_is_a_negative_loss_and_passes(
    pair: tuple[Path, Path, Path], altered: Callable[..., Path], edit_weights: Callable[..., bytes]
) -> None:
    int8, float32, data = pair
    rng = np.random.default_rng(0)
    model = edit_weights(
        (float32 / "model.onnx").read_bytes(), 4 * 32 * 64,
        lambda weights: rng.permutation(np.frombuffer(weights, dtype=np.float32)).tobytes(),
    )  # fmt: skip
    broken = altered(float32, files={"model.onnx": model})
    report = verify(int8, broken, data, min_size_ratio=1, max_relative_loss=0, threads=1)
    assert report.relative_loss < 0
    assert report.passed


def test_every_file_but_text_counts_as_size_of_the_model(
    pair: tuple[Path, Path, Path], altered: Callable[..., Path]
) -> None:
    int8, float32, data = pair
    files = {"weights.bin": bytes(1_000_000), "README.md": bytes(50_000), "parity.json": bytes(70_000)}
    heavier = altered(float32, files=files)
    report = verify(int8, heavier, data, max_relative_loss=1, threads=1)
    assert report.size_ratio == pytest.approx((model_size(float32) + 1_000_000) / model_size(int8))
    assert report.passed


def test_a_model_that_is_too_large_fails(pair: tuple[Path, Path, Path], command: Callable[..., Result]) -> None:
    int8, float32, data = pair
    report = verify(int8, float32, data, min_size_ratio=100, max_relative_loss=1, threads=1)
    assert report.failures == (f"size ratio {report.size_ratio:.3f} is below 100",)
    limits = ("--min-size-ratio", 100, "--max-relative-loss", 1, "--threads", 1)
    result = command("verify", int8, "--reference", float32, "--data-dir", data, *limits)
    assert result.exit_code == 1
    assert f"FAILED: size ratio {report.size_ratio:.3f} is below 100" in result.stdout


def test_a_bundle_whose_products_run_in_float_fails(
    pair: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    int8, float32, data = pair
    limits: dict[str, Any] = {"min_size_ratio": 0, "max_relative_loss": 1, "threads": 1}
    with monkeypatch.context() as patch:
        patch.setattr(
            RuntimeOptions, "batch", lambda threads, bfloat16: RuntimeOptions(threads=threads, optimization="basic")
        )
        report = verify(int8, float32, data, **limits)
        assert (report.passed, report.precision) == (False, "float32")
        assert report.failures == (
            "11 products ran in float, 0 were left in float on request: float32 (0 of 11 products)",
        )
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", "/nowhere")
        (failure,) = verify(int8, float32, data, **limits).failures
        assert "it is unknown whether the products ran in INT8" in failure


def test_products_left_in_float_on_request_are_no_failure(
    pair: tuple[Path, Path, Path], altered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(manifest: dict[str, Any]) -> None:
        manifest["quantization"]["products"]["n_float"] = 2

    monkeypatch.setattr(Classifier, "products", Products(8, 2))
    int8, float32, data = pair
    limits: dict[str, Any] = {"min_size_ratio": 0, "max_relative_loss": 1, "threads": 1}
    assert not verify(int8, float32, data, **limits).passed
    assert verify(altered(int8, change=say), float32, data, **limits).passed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(max_length=31), r"max_length is 32 in .* and 31 in the reference"),
        (
            lambda manifest: manifest.update(obey_special_tokens=True),
            r"obey_special_tokens is False in .* and True in the",
        ),
        (lambda manifest: manifest["model"].update(n_parameters=5), r"n_parameters is .* and 5 in the reference"),
        (lambda manifest: manifest["model"].update(family="roberta"), r"family is bert in .* and roberta in"),
        (lambda manifest: manifest["task"].update(label_column="other"), "of SST-2, defined otherwise"),
        (lambda manifest: manifest.update(precision="int8"), r"the reference .* is a bundle in int8, not in float32"),
        (lambda manifest: manifest["model"].update(source="/moved"), None),
    ],
)
def test_only_twins_are_compared(
    pair: tuple[Path, Path, Path], altered: Callable[..., Path], change: Any, message: str | None
) -> None:
    int8, float32, data = pair
    other = altered(float32, change=change)
    if message is None:
        assert verify(int8, other, data, min_size_ratio=0, max_relative_loss=1, threads=1).passed
        return
    with pytest.raises(ConfigError, match=message):
        verify(int8, other, data, threads=1)


def test_twins_have_one_tokenizer(pair: tuple[Path, Path, Path], altered: Callable[..., Path]) -> None:
    int8, float32, data = pair
    content = json.loads((float32 / "tokenizer.json").read_text(encoding="utf-8"))
    same = altered(float32, files={"tokenizer.json": json.dumps(content).encode()})
    assert verify(int8, same, data, min_size_ratio=0, max_relative_loss=1, threads=1).passed
    content["normalizer"]["lowercase"] = False
    with pytest.raises(ConfigError, match="have different tokenizers"):
        verify(int8, altered(float32, files={"tokenizer.json": json.dumps(content).encode()}), data, threads=1)


def test_shuffled_weights_fail(pair: tuple[Path, Path, Path], broken: Path, command: Callable[..., Result]) -> None:
    _, float32, data = pair
    report = verify(broken, float32, data, min_size_ratio=1.5, max_relative_loss=0.1, threads=1)
    assert not report.passed
    assert report.relative_loss == pytest.approx(1 - accuracy(broken, data) / accuracy(float32, data))
    assert ["relative loss" in failure for failure in report.failures] == [True]
    limits = ("--min-size-ratio", 1.5, "--max-relative-loss", 0.1, "--threads", 1)
    result = command("verify", broken, "--reference", float32, "--data-dir", data, *limits, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False


@pytest.mark.parametrize("limit", ["min_size_ratio", "max_relative_loss"])
def test_a_limit_that_is_not_a_number_is_refused(pair: tuple[Path, Path, Path], limit: str) -> None:
    # every comparison with NaN is false, so a gate that compares only would let everything through
    limits: dict[str, float] = {"min_size_ratio": 0.0, "max_relative_loss": 1.0, limit: math.nan}
    with pytest.raises(ConfigError, match=limit):
        verify(*pair, threads=1, **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda score: 5 - score, "the reference's pearson is -.* needs a reference above zero"),
        (lambda score: 3.0, "pearson is undefined there, whatever a model predicts: every row has the score 3.0"),
    ],
    ids=["below zero", "undefined"],
)
def test_a_reference_without_a_score_above_zero_is_an_error(
    small: Any, tmp_path: Path, command: Callable[..., Result], change: Callable[[float], float], message: str
) -> None:
    int8, float32, data = small.bundle("STS-B", "int8"), small.bundle("STS-B", "float32"), tmp_path / "data"
    assert evaluate(float32, small.data("STS-B"), threads=1).metrics["pearson"] > 0
    header, *rows = (small.data("STS-B") / "dev.tsv").read_text().splitlines()
    turned = [f"{a}\t{b}\t{change(float(score))}" for a, b, score in (row.split("\t") for row in rows)]
    data.mkdir()
    (data / "dev.tsv").write_text("\n".join([header, *turned]) + "\n")
    with pytest.raises((ConfigError, InputError), match=message):
        verify(int8, float32, data, threads=1)
    result = command("verify", int8, "--reference", float32, "--data-dir", data, "--threads", 1, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(f"^error: .*{message}", result.stderr)


def test_bundles_of_different_tasks_are_not_compared(
    small: Any, pair: tuple[Path, Path, Path], command: Callable[..., Result]
) -> None:
    int8, _, data = pair
    other = small.bundle("STS-B", "float32")
    with pytest.raises(ConfigError, match=r"is of task SST-2, the reference .* of STS-B"):
        verify(int8, other, data, threads=1)
    result = command("verify", int8, "--reference", other, "--data-dir", data, "--threads", 1)
    assert result.exit_code == 2
    assert "is of task SST-2" in result.stderr


def test_malformed_rows_left_out_are_listed_and_counted(
    pair: tuple[Path, Path, Path], tmp_path: Path, command: Callable[..., Result]
) -> None:
    int8, float32, _ = pair
    data = tmp_path / "data"
    shutil.copytree(pair[2], data)
    with (data / "dev.tsv").open("a") as file:
        file.write("a film\t7\n")
    arguments = ("verify", int8, "--reference", float32, "--data-dir", data, "--threads", 1)
    limits = ("--min-size-ratio", 0, "--max-relative-loss", 1)
    assert command(*arguments, *limits).exit_code == 2
    result = command(*arguments, *limits, "--skip-malformed", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["n_rows"] == 200
    assert json.loads(result.stdout).get("n_skipped") == 1
    assert "line 202, column label: unknown label" in result.stderr
    assert "1 malformed rows left out" in result.stderr
