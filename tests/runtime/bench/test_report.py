"""Figures by hand, and advice that follows from them."""

from dataclasses import replace

import pytest

from q8bert.runtime.bench.report import Measured, Setting, Turn, advise_batch, advise_service, summarize
from q8bert.runtime.engines.options import RuntimeOptions

ONE = Measured("onnxruntime", 1, 1, False, "int8 (10 of 10 products)", 300, 2.0, 3.0, 500.0, 1.9, 0.02)


def test_figures_are_those_of_the_calls_and_of_the_rounds() -> None:
    setting = Setting("onnxruntime", 2, 4, RuntimeOptions.service(threads=2))
    # 40, 60 and 80 ms
    rounds = [Turn([0.010, 0.030], 0.08), Turn([0.020, 0.040], 0.16), Turn([0.010, 0.070], 0.24)]
    found = summarize(setting, "int8", rounds)
    assert (found.n_calls, found.batch_size, found.threads) == (6, 4, 2)
    assert found.p50_ms == pytest.approx(25.0)
    assert found.p99_ms == pytest.approx(70.0)  # of six calls, the longest
    assert found.rows_per_second == pytest.approx(8 / 0.060)
    assert found.cpu_ms_per_row == pytest.approx(160 / 8)
    assert found.noise == pytest.approx(20 / 60)  # quartiles of 40, 60, 80 are 50 and 70


def test_of_hundred_calls_one_is_slower_than_the_99th_percentile() -> None:
    setting = Setting("onnxruntime", 1, 1, RuntimeOptions.service())
    seconds = [0.001 * number for number in range(1, 202)]
    assert summarize(setting, "", [Turn(seconds, 1.0)]).p99_ms == pytest.approx(199.0)


def test_a_service_is_advised_the_shortest_median_of_single_rows() -> None:
    results = [ONE, replace(ONE, engine="openvino", p50_ms=1.5), replace(ONE, batch_size=8, p50_ms=0.1)]
    found = advise_service(results, bundle="my bundle")
    assert (found.engine, found.threads, found.batch_size) == ("openvino", 1, 1)
    assert found.line == ("Classifier.load('my bundle', engine='openvino', options=RuntimeOptions.service(threads=1))")


@pytest.mark.parametrize(("p50_ms", "threads"), [(1.95, 1), (1.2, 4)])
def test_threads_that_gain_no_more_than_noise_are_left_to_others(p50_ms: float, threads: int) -> None:
    results = [replace(ONE, threads=4, p50_ms=p50_ms), ONE]
    assert advise_service(results, bundle="b").threads == threads


def test_what_lies_within_the_noise_that_was_seen_is_no_gain() -> None:
    results = [replace(ONE, threads=4, p50_ms=1.8, rows_per_second=560.0, noise=0.3), ONE]
    assert advise_service(results, bundle="b").threads == 1
    assert advise_batch(results, bundle="b").threads == 1


def test_a_batch_job_is_advised_the_most_rows_a_second() -> None:
    results = [
        ONE, replace(ONE, batch_size=32, threads=2, rows_per_second=900.0),
        replace(ONE, batch_size=8, threads=2, rows_per_second=890.0),
        replace(ONE, batch_size=8, threads=1, rows_per_second=700.0),
    ]  # fmt: skip
    found = advise_batch(results, bundle="my bundle")
    assert (found.threads, found.batch_size) == (2, 8)  # within noise of the best, and smaller
    assert found.line == (
        "q8bert predict 'my bundle' --engine onnxruntime --threads 2 --batch-size 8 --input ROWS "
        "--output predictions.jsonl"
    )
