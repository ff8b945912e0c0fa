"""Predictions for a whole file, as JSON lines."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from q8bert.data.readers import Format, read_file
from q8bert.runtime.engines.engine import ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import Provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.predict.classifier import BatchSize, Classifier, OnLong, Threads
from q8bert.runtime.predict.examples import answers_of_examples
from q8bert.runtime.predict.graph_choice import AUTO, GraphName
from q8bert.spec.checked import checked
from q8bert.spec.errors import BundleError, InputError
from q8bert.spec.files import new_file
from q8bert.tasks.head import Prediction

__all__ = ["PredictionReport", "predict_file"]

# rows between two calls of show_progress; also how far sorting by length reaches
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class PredictionReport:
    """What was predicted.

    Attributes:
        output: The file written.
        n_rows: Rows predicted.
        n_truncated: Rows longer than the bundle's maximum length, which lost tokens.
        n_skipped: Malformed rows left out.
        skipped: The malformed rows, one line each.
    """

    output: str
    n_rows: int
    n_truncated: int
    n_skipped: int
    skipped: tuple[str, ...]


@checked
def predict_file(
    bundle: Path | str,
    source: Path | str,
    output: Path | str,
    *,
    engine: EngineName = ONNX_RUNTIME,
    providers: Sequence[Provider] = (CPU_PROVIDER,),
    graph: GraphName = AUTO,
    threads: Threads = 0,
    bfloat16: bool = False,
    batch_size: BatchSize = 32,
    format: Format = None,  # noqa: A002 - as on the command line
    schema: Path | str | None = None,
    skip_malformed: bool = False,
    on_long: OnLong = "truncate",
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> PredictionReport:
    """Predict every row of a file.

    Writes one JSON object a line, in input order: ``index``, the row's number in the file from 0, and ``label`` with
    ``probabilities``, or ``score``. The output appears when it is complete.

    Args:
        bundle: The bundle's folder.
        source: A table or Parquet with the task's columns, labelled or not, JSON lines with ``text`` and ``text_pair``,
            or token ids.
        output: File to write.
        engine: What runs the model: ``onnxruntime`` or ``openvino``.
        providers: ONNX Runtime's execution providers by full name, or pairs of a name and its options.
        graph: Form of the model: ``main``, a target of the export, or ``auto`` for what suits the first provider.
        threads: CPU threads; 0 for the cores that this process may use.
        bfloat16: Whether OpenVINO computes what is not in integers in bfloat16.
        batch_size: Rows a batch.
        format: How ``source`` is written; see :func:`q8bert.data.readers.read_file`.
        schema: JSON schema of a TFRecord file.
        skip_malformed: Leave malformed rows out instead of stopping; ``index`` counts them too.
        on_long: Rows longer than the bundle's maximum length: ``truncate`` and count them, or ``refuse`` the file.
        show_progress: Called with rows done and rows in all.

    Returns:
        Counts.

    Raises:
        BundleError: If the bundle is incomplete or altered.
        ConfigError: If an argument is of another type than it should be.
        InputError: If the source cannot be read, a row is too long and refused, or there is no such output.
        OutputError: If the output cannot be written.
    """
    source, output = Path(source), Path(output)
    options = RuntimeOptions.batch(threads=threads, bfloat16=bfloat16)
    classifier = Classifier.load(
        bundle, engine=engine, providers=providers, options=options, on_long=on_long, graph=graph
    )  # fmt: skip
    if not output.parent.is_dir():
        raise InputError(f"cannot write {output}: the folder {output.parent} does not exist")
    if output.exists() and not output.is_file():
        raise InputError(f"cannot write {output}: it is no ordinary file; give the name of a file")
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"cannot write {output}: it is the input; give another --output")
    if output.exists() and _is_written_by_us(output):
        raise InputError(
            f"cannot write {output}: stdout or stderr of this process goes there, and the file would be replaced under "
            "it; give another --output"
        )
    split = read_file(
        classifier.task, source, labelled=False, format=format, schema=schema, skip_malformed=skip_malformed
    )
    numbers = split.row_numbers()
    n_truncated = 0
    with new_file(output) as file:
        for start in range(0, len(split.examples), _CHUNK):
            chunk = split.examples[start : start + _CHUNK]
            answers = answers_of_examples(classifier, chunk, source=split.source, batch_size=batch_size)
            for index, answer in zip(numbers[start : start + _CHUNK], answers, strict=True):
                if isinstance(answer, InputError | BundleError):
                    raise type(answer)(f"{source}, index {index}: {answer}") from answer
                n_truncated += answer.truncated
                file.write(_line(index, answer).encode("utf-8"))
            show_progress(start + len(chunk), len(split.examples))
    skipped = tuple(str(row) for row in split.skipped)
    return PredictionReport(
        output=str(output),
        n_rows=len(split.examples),
        n_truncated=n_truncated,
        n_skipped=len(skipped),
        skipped=skipped,
    )


def _is_written_by_us(path: Path) -> bool:
    # /dev/stdout is the file that stdout was sent to; with a pipe or a terminal it is no ordinary file
    for stream in (1, 2):
        with suppress(OSError):  # it is closed
            if os.path.samestat(path.stat(), os.fstat(stream)):
                return True
    return False


def _line(index: int, prediction: Prediction) -> str:
    row: dict[str, object] = {"index": index}
    if prediction.score is not None:
        row["score"] = prediction.score
    else:
        row |= {"label": prediction.label, "probabilities": prediction.probabilities}
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
