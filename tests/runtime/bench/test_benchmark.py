"""Every setting has its turns, the advice can be followed, and what cannot run is named."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from q8bert.runtime import Classifier, RuntimeOptions, benchmark
from q8bert.runtime.bench import benchmark as module
from q8bert.spec.errors import ConfigError, MissingExtraError


def test_every_setting_is_timed_on_the_same_rows(small: Any) -> None:
    seen: list[tuple[int, int]] = []
    report = benchmark(
        small.bundle("SST-2", "int8"), engines=["onnxruntime"], threads=[2, 1], batch_sizes=[4, 1], lengths=[8],
        seconds=0.01, show_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert [(one.threads, one.batch_size) for one in report.results] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert report.n_rounds == 3  # at least
    assert [one.n_calls for one in report.results] == [3 * 16, 3 * 4] * 2
    assert all(0 < one.p50_ms <= one.p99_ms and one.rows_per_second > 0 for one in report.results)
    assert {one.kernels for one in report.results} == {"int8 (11 of 11 products)"}
    assert len(seen) == 3 * 4
    assert (report.mean_tokens, report.precision, report.left_out) == (8.0, "int8", {})
    assert list(report.versions) == ["onnxruntime"]


def test_the_line_for_a_service_loads_the_bundle(small: Any) -> None:
    report = benchmark(small.bundle("SST-2", "int8"), threads=[1], batch_sizes=[1], lengths=[8], seconds=0.01)
    names = {"Classifier": Classifier, "RuntimeOptions": RuntimeOptions}
    loaded = eval(report.service.line, names)
    assert (loaded.engine, loaded.threads) == (report.service.engine, report.service.threads)


def test_single_rows_are_run_as_in_a_service_and_batches_as_in_a_batch_job(small: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("q8bert.runtime.engines.options.cpu_quota", lambda: None)
    report = benchmark(
        small.bundle("SST-2", "int8"), engines=["onnxruntime"], threads=[2], batch_sizes=[1, 4], lengths=[8], seconds=0.01
    )  # fmt: skip
    assert [one.spinning for one in report.results] == [False, True]


def test_an_engine_that_is_not_installed_is_left_out_unless_it_was_named(small: Any, monkeypatch: Any) -> None:
    def missing(name: str) -> None:
        if name == "openvino":
            raise MissingExtraError("openvino is not installed here")

    monkeypatch.setattr(module, "require_engine", missing)
    bundle = small.bundle("SST-2", "int8")
    report = benchmark(bundle, threads=[1], batch_sizes=[1], lengths=[8], seconds=0.01)
    assert {one.engine for one in report.results} == {"onnxruntime"}
    assert report.left_out == {"openvino": "openvino is not installed here"}
    with pytest.raises(MissingExtraError):
        benchmark(bundle, engines=["openvino"], threads=[1], seconds=0.01)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_both_engines_are_timed_where_both_are_installed(small: Any) -> None:
    report = benchmark(small.bundle("SST-2", "int8"), threads=[1], batch_sizes=[1], lengths=[8], seconds=0.01)
    assert [one.engine for one in report.results] == ["onnxruntime", "openvino"]
    assert set(report.versions) == {"onnxruntime", "openvino"}


@pytest.mark.parametrize(
    "wrong", [{"engines": ["torch"]}, {"threads": [0]}, {"batch_sizes": [0]}, {"seconds": 0.0}, {"lengths": [0]}]
)
def test_wrong_options_are_refused(small: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        benchmark(small.bundle("SST-2", "int8"), **wrong)


def test_the_command_prints_a_table_and_two_lines(small: Any, command: Callable[..., Result]) -> None:
    bundle = small.bundle("SST-2", "int8")
    options = ["--engine", "onnxruntime", "--threads", 1, "--batch-size", 1, "--length", 8, "--seconds", 0.1]
    result = command("bench", bundle, *options)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("service: Classifier.load(")]
    assert [line for line in lines if line.startswith("batch:   q8bert predict ")]
    content = json.loads(command("bench", bundle, *options, "--json").stdout)
    assert content["results"][0]["batch_size"] == 1
    assert content["batch"]["line"].startswith("q8bert predict")


def test_the_command_times_a_file(small: Any, tmp_path: Path, command: Callable[..., Result]) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("a great film\n", encoding="utf-8")
    bundle = small.bundle("SST-2", "int8")
    result = command("bench", bundle, "--data", tmp_path / "nowhere.jsonl", "--seconds", 0.1)
    assert result.exit_code == 2
    assert "nowhere.jsonl" in result.stderr
