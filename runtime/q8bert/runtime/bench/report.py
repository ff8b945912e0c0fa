"""What was timed, and which options follow from it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from q8bert.runtime.engines.options import RuntimeOptions

__all__ = ["Advice", "BenchmarkReport", "Measured", "Setting", "Turn", "advise_batch", "advise_service", "summarize"]

# what such figures move by from one run to the next even on a quiet machine; below it, and below the noise that was
# seen, the one that takes fewer cores is taken
_EQUAL = 0.05


@dataclass(frozen=True)
class Setting:
    """One way to run a bundle.

    Attributes:
        engine: ``onnxruntime`` or ``openvino``.
        threads: CPU threads.
        batch_size: Rows a call.
        options: How the engine was loaded.
    """

    engine: str
    threads: int
    batch_size: int
    options: RuntimeOptions


@dataclass(frozen=True)
class Measured:
    """What one setting took, from texts to answers.

    Attributes:
        engine: ``onnxruntime`` or ``openvino``.
        threads: CPU threads.
        batch_size: Rows a call.
        spinning: Whether threads wait for work actively.
        kernels: What products with weights ran in, for example ``int8 (26 of 26 products)``.
        n_calls: Calls that were timed.
        p50_ms: Median of a call, milliseconds.
        p99_ms: 99th percentile of a call; of fewer than 100 calls the longest.
        rows_per_second: Of the median round.
        cpu_ms_per_row: CPU time of all threads, milliseconds, of the median round; what others on the machine do moves
            it least.
        noise: Half of the rounds lie within this of each other, relative to their median; 0.1 is 10 %.
    """

    engine: str
    threads: int
    batch_size: int
    spinning: bool
    kernels: str
    n_calls: int
    p50_ms: float
    p99_ms: float
    rows_per_second: float
    cpu_ms_per_row: float
    noise: float


@dataclass(frozen=True)
class Advice:
    """Options for one purpose.

    Attributes:
        engine: ``onnxruntime`` or ``openvino``.
        threads: CPU threads.
        batch_size: Rows a batch.
        line: The line that loads or runs the bundle so.
    """

    engine: str
    threads: int
    batch_size: int
    line: str


@dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """What was found on this machine.

    Attributes:
        bundle: The bundle's folder.
        precision: What its manifest says.
        cpu: Name of the CPU.
        cores: Cores that this process may use.
        versions: Engine → its release.
        rows: Where the rows are from, in words.
        mean_tokens: Tokens a row on average.
        seconds: What the rounds took.
        n_rounds: Turns of each setting.
        results: One a setting.
        left_out: Engine → why it was not timed.
        service: Options for single rows, as they come.
        batch: Options for many rows at once.
    """

    bundle: str
    precision: str
    cpu: str
    cores: int
    versions: Mapping[str, str]
    rows: str
    mean_tokens: float
    seconds: float
    n_rounds: int
    results: tuple[Measured, ...]
    left_out: Mapping[str, str]
    service: Advice
    batch: Advice


@dataclass(frozen=True)
class Turn:
    """One turn of a setting.

    Attributes:
        calls: Seconds of each call.
        cpu: CPU seconds of all calls together, all threads.
    """

    calls: Sequence[float]
    cpu: float


def summarize(setting: Setting, kernels: str, rounds: Sequence[Turn]) -> Measured:
    """Make figures of seconds.

    Args:
        setting: What was timed.
        kernels: What ran, in words.
        rounds: One turn a round, each with the same calls.

    Returns:
        The figures.
    """
    calls = np.concatenate([np.asarray(turn.calls, dtype=np.float64) for turn in rounds])
    totals = np.array([sum(turn.calls) for turn in rounds])
    low, median, high = np.quantile(totals, (0.25, 0.5, 0.75))
    n_rows = len(rounds[0].calls) * setting.batch_size
    return Measured(
        engine=setting.engine,
        threads=setting.threads,
        batch_size=setting.batch_size,
        spinning=setting.options.spinning,
        kernels=kernels,
        n_calls=len(calls),
        p50_ms=1e3 * float(np.quantile(calls, 0.5)),
        # of few calls the longest: what lies between two of them was not seen
        p99_ms=1e3 * float(np.quantile(calls, 0.99, method="higher")),
        rows_per_second=n_rows / float(median),
        cpu_ms_per_row=1e3 * float(np.median([turn.cpu for turn in rounds])) / n_rows,
        noise=float((high - low) / median),
    )


def advise_service(results: Sequence[Measured], *, bundle: str) -> Advice:
    """Return options for single rows: of the smallest batch size the shortest median, and as few threads as give it."""
    smallest = min(one.batch_size for one in results)
    single = [one for one in results if one.batch_size == smallest]
    best = min(single, key=lambda one: one.p50_ms)
    near = [one for one in single if one.p50_ms <= best.p50_ms * (1 + _allowance(one, best))]
    chosen = min(near, key=lambda one: (one.threads, one.p50_ms))
    options = f"options=RuntimeOptions.service(threads={chosen.threads})"
    line = f"Classifier.load({bundle!r}, engine={chosen.engine!r}, {options})"
    return Advice(chosen.engine, chosen.threads, chosen.batch_size, line)


def advise_batch(results: Sequence[Measured], *, bundle: str) -> Advice:
    """Return options for many rows: the most rows a second, and as few threads and as small batches as give them."""
    best = max(results, key=lambda one: one.rows_per_second)
    near = [one for one in results if one.rows_per_second * (1 + _allowance(one, best)) >= best.rows_per_second]
    chosen = min(near, key=lambda one: (one.threads, one.batch_size, -one.rows_per_second))
    words: list[Any] = ["q8bert", "predict", bundle, "--engine", chosen.engine, "--threads", chosen.threads]
    words += ["--batch-size", chosen.batch_size, "--input", "ROWS", "--output", "predictions.jsonl"]
    return Advice(chosen.engine, chosen.threads, chosen.batch_size, shlex.join(map(str, words)))


def _allowance(one: Measured, best: Measured) -> float:
    return max(_EQUAL, (one.noise + best.noise) / 2)
