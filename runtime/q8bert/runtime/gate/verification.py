"""The gate: is the INT8 bundle four times smaller, and as good as its float twin?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from q8bert.data.readers import Format
from q8bert.data.row_source import read_labelled
from q8bert.runtime.engines.engine import ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import Provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.gate.evaluation import score_split
from q8bert.runtime.gate.twins import float_faults, refuse_strangers
from q8bert.runtime.predict.classifier import BatchSize, Classifier, Threads
from q8bert.runtime.predict.graph_choice import AUTO, GraphName
from q8bert.spec.bundle.targets import FLOAT16_TARGET, MAIN
from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import at_least
from q8bert.tasks.metrics import refuse_undefined

__all__ = ["VerificationReport", "verify"]


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """What the gate found.

    Attributes:
        passed: Whether size, accuracy and precision are as they should be.
        failures: Why it did not pass, in words; empty when it did.
        graph: Form of the bundle's model that ran: ``main`` or a target.
        size_ratio: Bytes of the reference's model over bytes of that form of the bundle's: all files but the
            tokenizer's and those for people.
        min_size_ratio: Smallest ratio that passes.
        relative_loss: ``(reference − bundle) / reference`` of the main metric; negative is a gain.
        max_relative_loss: Largest loss that passes.
        task: Name of the task.
        split: Name of the split, or of the file.
        precision: In what the bundle's products with weights really ran: ``int8``, ``float32``, ``bfloat16``, ``mixed``
            or ``unknown``.
        kernels: The same with counts, for example ``int8 (26 of 26 products)``.
        precision_note: What was counted, and where.
        main_metric: The metric compared.
        metrics: All metrics of the bundle, as fractions.
        reference_metrics: All metrics of the reference.
        n_rows: Rows scored.
        n_truncated: Rows longer than the bundle's maximum length, which lost tokens.
        n_skipped: Malformed rows left out.
        skipped: Those rows, one line each.
        notes: What there is to know of the rows besides, in sentences.
    """

    passed: bool
    failures: tuple[str, ...]
    graph: str
    size_ratio: float
    min_size_ratio: float
    relative_loss: float
    max_relative_loss: float
    task: str
    split: str
    precision: str
    kernels: str
    precision_note: str
    main_metric: str
    metrics: Mapping[str, float]
    reference_metrics: Mapping[str, float]
    n_rows: int
    n_truncated: int
    n_skipped: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


@checked
def verify(
    bundle: Path | str,
    reference: Path | str,
    data_dir: Path | str | None = None,
    *,
    data_file: Path | str | None = None,
    split: str = "dev",
    min_size_ratio: Annotated[float, at_least(0)] = 3.9,
    max_relative_loss: float = 0.01,
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
) -> VerificationReport:
    """Compare a bundle with its float twin in size and accuracy, and see that it runs in INT8.

    Args:
        bundle: The INT8 bundle's folder.
        reference: The float bundle's folder.
        data_dir: Folder of the task's files, or ``hub:nyu-mll/glue``.
        data_file: File of labelled rows, instead of a split of the folder.
        split: Name of the split.
        min_size_ratio: Smallest size ratio that passes.
        max_relative_loss: Largest relative loss of the main metric that passes, as a fraction.
        engine: What runs the model: ``onnxruntime`` or ``openvino``.
        providers: ONNX Runtime's execution providers by full name, or pairs of a name and its options.
        graph: Form of the bundle's model: ``main``, a target of the export, or ``auto`` for what suits the first
            provider. Where ``float16`` is asked for by name, that it does not run in INT8 is no failure. The reference
            runs in its main form.
        threads: CPU threads; 0 for the cores that this process may use.
        bfloat16: Whether OpenVINO computes what is not in integers in bfloat16.
        batch_size: Rows a batch.
        format: How the file of the split is written; see :func:`q8bert.data.readers.read_file`.
        schema: JSON schema of a TFRecord file.
        skip_malformed: Leave malformed rows out instead of stopping.
        show_progress: Called with rows done and rows in all, of both bundles.

    Returns:
        The findings; ``passed`` is the gate.

    Raises:
        BundleError: If a bundle is incomplete or altered.
        ConfigError: If a limit is not finite, the bundles are no twins, or the reference scores zero or less, of which
            no relative loss can be formed.
        InputError: If the data cannot be read, or has only labels such that the main metric is undefined.
    """
    options = RuntimeOptions.batch(threads=threads, bfloat16=bfloat16)
    ours, theirs = (
        Classifier.load(path, engine=engine, providers=providers, options=options, graph=form)
        for path, form in ((bundle, graph), (reference, MAIN))
    )
    refuse_strangers(ours, theirs)
    task = ours.task
    rows = read_labelled(
        task, data_dir, data_file, split=split, format=format, schema=schema, skip_malformed=skip_malformed
    )
    split = split if data_file is None else Path(data_file).name
    refuse_undefined(task, rows.labels(), source=rows.source)
    metrics, n_truncated = score_split(
        ours, rows, task, batch_size=batch_size, show_progress=lambda done, total: show_progress(done, 2 * total)
    )
    reference_metrics, _ = score_split(
        theirs, rows, task, batch_size=batch_size,
        show_progress=lambda done, total: show_progress(total + done, 2 * total),
    )  # fmt: skip
    main_metric = task.data.main_metric
    base = reference_metrics[main_metric]
    if base <= 0:
        raise ConfigError([
            f"the reference's {main_metric} is {base:.4f}; a relative loss needs a reference above zero. "
            "Train the float model longer"
        ])  # fmt: skip
    size_ratio = theirs.bundle.size_of(theirs.graph) / ours.bundle.size_of(ours.graph)
    relative_loss = (base - metrics[main_metric]) / base
    failures = []
    if size_ratio < min_size_ratio:
        failures.append(f"size ratio {size_ratio:.3f} is below {min_size_ratio:g}")
    if relative_loss > max_relative_loss:
        failures.append(f"relative loss {relative_loss:.2%} of {main_metric} is above {max_relative_loss:.2%}")
    if graph != FLOAT16_TARGET:  # floats were asked for by name
        failures += float_faults(ours)
    return VerificationReport(
        passed=not failures,
        graph=ours.graph,
        size_ratio=size_ratio,
        min_size_ratio=min_size_ratio,
        relative_loss=relative_loss,
        max_relative_loss=max_relative_loss,
        task=task.name,
        split=split,
        main_metric=main_metric,
        metrics=metrics,
        reference_metrics=reference_metrics,
        n_rows=len(rows.examples),
        failures=tuple(failures),
        n_skipped=len(rows.skipped),
        skipped=tuple(str(row) for row in rows.skipped),
        notes=rows.notes,
        n_truncated=n_truncated,
        precision=ours.precision,
        kernels=str(ours.products or "unknown"),
        precision_note=ours.precision_note,
    )
