"""Time a bundle on this machine: every engine, thread count and batch size in turns, which meet the same noise."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from q8bert.data.readers import Format
from q8bert.machine.builds import installed_ort_build
from q8bert.machine.cores import available_cores
from q8bert.machine.cpu import cpu_name
from q8bert.runtime.bench.report import (
    BenchmarkReport,
    Setting,
    Turn,
    advise_batch,
    advise_service,
    summarize,
)
from q8bert.runtime.bench.rows import TimedRows, rows_of_bundle
from q8bert.runtime.engines.choice import require_engine
from q8bert.runtime.engines.engine import ENGINES, ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.predict.classifier import BatchSize, Classifier
from q8bert.spec.checked import checked
from q8bert.spec.errors import MissingExtraError, Q8BertError
from q8bert.spec.kinds import above, at_least

__all__ = ["BATCH_SIZES", "SECONDS", "benchmark"]

BATCH_SIZES, SECONDS = (1, 8, 32), 30.0
_MIN_ROUNDS = 3
_ROWS_A_TURN = 16
_PAUSE_S = 0.005  # for threads that still spin

_Calls = Sequence[tuple[list[str], list[str] | None]]


@checked
def benchmark(
    bundle: Path | str,
    *,
    data: Path | str | None = None,
    format: Format = None,  # noqa: A002 - as on the command line
    engines: Sequence[EngineName] = (),
    threads: Sequence[Annotated[int, at_least(1)]] = (),
    batch_sizes: Sequence[BatchSize] = BATCH_SIZES,
    lengths: Sequence[Annotated[int, at_least(1)]] = (),
    seconds: Annotated[float, above(0)] = SECONDS,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> BenchmarkReport:
    """Time a bundle from texts to answers.

    Single rows are run as a service runs them, batches as a batch job does: with threads that spin, where there is no
    CPU quota. A batch has rows of like length, as batches of both have.

    Args:
        bundle: The bundle's folder.
        data: File of rows as the model will meet them, labelled or not; None for rows made of the vocabulary.
        format: How it is written; see :func:`q8bert.data.readers.read_file`.
        engines: Which to time; none for all that are installed.
        threads: CPU threads of each; none for 1, half and all of the cores that this process may use.
        batch_sizes: Rows a call.
        lengths: Tokens of the rows that are made; none for a quarter, half and all of the bundle's maximum length.
        seconds: How long the rounds go on; each setting has three turns at least, however long they take.
        seed: Of the rows that are made, and of the order of turns.
        report: Called with a sentence.
        show_progress: Called with seconds gone and seconds in all.

    Returns:
        The figures, and the options that follow from them.

    Raises:
        BundleError: If the bundle is incomplete or altered, or cannot be run.
        ConfigError: If an argument is of another type than it should be.
        InputError: If there are no such rows.
        MissingExtraError: If an engine that was named is not installed, or none is.
    """
    rows = rows_of_bundle(Path(bundle), data=None if data is None else Path(data), format=format, lengths=lengths,
                          seed=seed)  # fmt: skip
    cores = available_cores()
    counts = sorted(set(threads)) or sorted({1, max(1, cores // 2), cores})
    loaded, left_out = _load_all(Path(bundle), engines, counts, sorted(set(batch_sizes)), report)
    report(f"timing {len(loaded)} settings for {seconds:.0f} s or three rounds")
    started = time.perf_counter()
    taken = _take_turns(loaded, rows, seconds=seconds, seed=seed, show_progress=show_progress)
    results = tuple(
        summarize(setting, str(classifier.products or "unknown"), taken[setting])
        for setting, classifier in loaded.items()
    )
    return BenchmarkReport(
        bundle=str(bundle),
        precision=next(iter(loaded.values())).bundle.manifest.precision,
        cpu=cpu_name(),
        cores=cores,
        versions={engine: _release(engine) for engine in sorted({setting.engine for setting in loaded})},
        rows=rows.source,
        mean_tokens=round(float(rows.lengths.mean()), 1),
        seconds=round(time.perf_counter() - started, 1),
        n_rounds=len(next(iter(taken.values()))),
        results=results,
        left_out=left_out,
        service=advise_service(results, bundle=str(bundle)),
        batch=advise_batch(results, bundle=str(bundle)),
    )


def _load_all(
    bundle: Path, engines: Sequence[str], threads: Sequence[int], sizes: Sequence[int], report: Callable[[str], None]
) -> tuple[dict[Setting, Classifier], dict[str, str]]:
    """Load every engine with every thread count; one that was not named and cannot be is left out, with the reason."""
    loaded: dict[Setting, Classifier] = {}
    left_out: dict[str, str] = {}
    last: Q8BertError | None = None
    for engine in dict.fromkeys(engines or ENGINES):
        try:
            require_engine(engine)
            loaded |= _loaded(bundle, engine, threads, sizes, report)
        except Q8BertError as error:
            if engines:
                raise
            left_out[engine], last = str(error), error
    if not loaded:
        raise last or MissingExtraError('no engine is installed. Run: pip install "q8bert[runtime]"')
    return loaded, left_out


def _loaded(
    bundle: Path, engine: str, threads: Sequence[int], sizes: Sequence[int], report: Callable[[str], None]
) -> dict[Setting, Classifier]:
    found: dict[Setting, Classifier] = {}
    for count in threads:
        of_options: dict[RuntimeOptions, Classifier] = {}
        for size in sizes:
            options = RuntimeOptions.service(threads=count)
            if size > 1 and count > 1 and engine == ONNX_RUNTIME:  # nothing else spins
                options = RuntimeOptions.batch(threads=count)
            if options not in of_options:
                report(f"loading {engine} with {count} thread{'s' * (count > 1)}")
                of_options[options] = Classifier.load(bundle, engine=engine, options=options)
            found[Setting(engine, count, size, options)] = of_options[options]
    return found


def _take_turns(
    loaded: Mapping[Setting, Classifier],
    rows: TimedRows,
    *,
    seconds: float,
    seed: int,
    show_progress: Callable[[int, int], None],
) -> dict[Setting, list[Turn]]:
    """Return the turns of every setting, one a round; a first round only warms up."""
    calls = {size: rows.batches(size, max(2, _ROWS_A_TURN // size)) for size in {one.batch_size for one in loaded}}
    taken: dict[Setting, list[Turn]] = {setting: [] for setting in loaded}
    draw, order = random.Random(seed), list(loaded)  # noqa: S311 - the order of turns is no secret
    for setting in order:
        _turn(loaded[setting], calls[setting.batch_size])
    started = time.perf_counter()
    n_rounds = 0
    while n_rounds < _MIN_ROUNDS or time.perf_counter() - started < seconds:
        draw.shuffle(order)
        for setting in order:
            time.sleep(_PAUSE_S)
            taken[setting].append(_turn(loaded[setting], calls[setting.batch_size]))
            show_progress(min(int(time.perf_counter() - started), int(seconds)), int(seconds))
        n_rounds += 1
    return taken


def _turn(classifier: Classifier, calls: _Calls) -> Turn:
    seconds = []
    cpu = time.process_time()
    for texts, pairs in calls:
        started = time.perf_counter()
        classifier(texts, pairs, batch_size=len(texts))
        seconds.append(time.perf_counter() - started)
    return Turn(seconds, time.process_time() - cpu)


def _release(engine: str) -> str:
    return version("openvino") if engine != ONNX_RUNTIME else installed_ort_build().version
