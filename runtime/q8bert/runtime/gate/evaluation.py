"""The score of a bundle on labelled rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from q8bert.data.examples import Split
from q8bert.data.readers import Format
from q8bert.data.row_source import read_labelled
from q8bert.runtime.engines.engine import ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import Provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.predict.classifier import BatchSize, Classifier, Threads
from q8bert.runtime.predict.examples import encoded_examples
from q8bert.runtime.predict.graph_choice import AUTO, GraphName
from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError
from q8bert.tasks.metrics import refuse_undefined, score
from q8bert.tasks.task import Task

__all__ = ["EvaluationReport", "evaluate", "score_split"]


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Scores of a bundle.

    Attributes:
        task: Name of the task.
        split: Name of the split, or of the file.
        graph: Form of the model that ran: ``main`` or a target.
        precision: In what products with weights really ran: ``int8``, ``float32``, ``bfloat16``, ``mixed`` or
            ``unknown``.
        kernels: The same with counts, for example ``int8 (26 of 26 products)``.
        precision_note: What was counted, and where.
        main_metric: The metric that the gate compares.
        metrics: Every metric of the task, as a fraction.
        n_rows: Rows scored.
        n_truncated: Rows longer than the bundle's maximum length, which lost tokens.
        n_skipped: Malformed rows left out.
        skipped: The malformed rows, one line each.
        notes: What there is to know of the rows besides, in sentences.
        seconds: From text to label, loading excluded.
    """

    task: str
    split: str
    graph: str
    precision: str
    kernels: str
    precision_note: str
    main_metric: str
    metrics: Mapping[str, float]
    n_rows: int
    n_truncated: int
    n_skipped: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


@checked
def evaluate(
    bundle: Path | str,
    data_dir: Path | str | None = None,
    *,
    data_file: Path | str | None = None,
    split: str = "dev",
    task: Task | None = None,
    engine: EngineName = ONNX_RUNTIME,
    providers: Sequence[Provider] = (CPU_PROVIDER,),
    graph: GraphName = AUTO,
    threads: Threads = 0,
    bfloat16: bool = False,
    batch_size: BatchSize = 32,
    format: Format = None,  # noqa: A002 - as on the command line
    schema: Path | str | None = None,
    skip_malformed: bool = False,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> EvaluationReport:
    """Score a bundle on one split.

    Args:
        bundle: The bundle's folder.
        data_dir: Folder of the task's files, or ``hub:nyu-mll/glue``.
        data_file: File of labelled rows, instead of a split of the folder.
        split: Name of the split.
        task: Another task with the same labels, for example QNLI for a bundle of RTE; default the bundle's own.
        engine: What runs the model: ``onnxruntime`` or ``openvino``.
        providers: ONNX Runtime's execution providers by full name, or pairs of a name and its options.
        graph: Form of the model: ``main``, a target of the export, or ``auto`` for what suits the first provider.
        threads: CPU threads; 0 for the cores that this process may use.
        bfloat16: Whether OpenVINO computes what is not in integers in bfloat16.
        batch_size: Rows a batch.
        format: How the file of the split is written; see :func:`q8bert.data.readers.read_file`.
        schema: JSON schema of a TFRecord file.
        skip_malformed: Leave malformed rows out instead of stopping.
        show_progress: Called with rows done and rows in all.

    Returns:
        The scores.

    Raises:
        BundleError: If the bundle is incomplete or altered.
        ConfigError: If ``task`` has other labels than the bundle.
        InputError: If the data cannot be read, has no labels, or only such that the main metric is undefined.
    """
    classifier = Classifier.load(
        bundle, engine=engine, providers=providers, graph=graph,
        options=RuntimeOptions.batch(threads=threads, bfloat16=bfloat16),
    )  # fmt: skip
    chosen = task or classifier.task
    own = classifier.task.head
    if chosen.head != own:
        raise ConfigError([
            f"task {chosen.name} has the labels {list(chosen.head.labels)}, the bundle has {list(own.labels)}"
        ])  # fmt: skip
    rows = read_labelled(
        chosen, data_dir, data_file, split=split, format=format, schema=schema, skip_malformed=skip_malformed
    )
    split = split if data_file is None else Path(data_file).name
    refuse_undefined(chosen, rows.labels(), source=rows.source)
    started = time.perf_counter()
    metrics, n_truncated = score_split(classifier, rows, chosen, batch_size=batch_size, show_progress=show_progress)
    return EvaluationReport(
        task=chosen.name,
        split=split,
        graph=classifier.graph,
        precision=classifier.precision,
        kernels=str(classifier.products or "unknown"),
        main_metric=chosen.data.main_metric,
        metrics=metrics,
        n_rows=len(rows.examples),
        n_skipped=len(rows.skipped),
        seconds=round(time.perf_counter() - started, 3),
        skipped=tuple(str(row) for row in rows.skipped),
        notes=rows.notes,
        n_truncated=n_truncated,
        precision_note=classifier.precision_note,
    )


def score_split(
    classifier: Classifier,
    rows: Split,
    task: Task,
    *,
    batch_size: int = 32,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[dict[str, float], int]:
    """Score a loaded classifier on labelled rows.

    Args:
        classifier: The classifier.
        rows: Labelled rows.
        task: The task whose metrics are wanted.
        batch_size: Rows a batch.
        show_progress: Called with rows done and rows in all.

    Returns:
        Every metric as a fraction, and the number of truncated rows.
    """
    encoded = encoded_examples(classifier, rows.examples, source=rows.source)
    logits = classifier.run(encoded, batch_size=batch_size, show_progress=show_progress)
    return score(task, logits, rows.labels()), len(encoded.truncated)
