"""Files of rows in, the same files with answers out; a job that was stopped goes on with the files that it lacks."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from q8bert.runtime.engines.engine import ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.providers.names import Provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.predict.classifier import BatchSize, OnLong, Threads
from q8bert.runtime.predict.graph_choice import AUTO, GraphName
from q8bert.runtime.scoring.answer_columns import AnswerColumns
from q8bert.runtime.scoring.job import FileRecord, Job
from q8bert.runtime.scoring.options import ScoringOptions
from q8bert.runtime.scoring.portion_scorer import N_FAULTS_TOLD, PortionScorer, ScoredPortion
from q8bert.runtime.scoring.ray_data import RayActors, ray_stream
from q8bert.runtime.scoring.reading.inputs import Source, find_sources
from q8bert.runtime.scoring.reading.layouts import layout_of
from q8bert.runtime.scoring.reading.records import PlannedFile
from q8bert.runtime.scoring.streams import local_stream
from q8bert.runtime.scoring.writing.output_files import write_outputs
from q8bert.spec.bundle.bundle import open_bundle
from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError, InputError
from q8bert.tasks.task import task_from_json

__all__ = ["ScoreProgress", "ScoreReport", "score_files"]


@dataclass(frozen=True, kw_only=True)
class ScoreProgress:
    """How far a job is.

    Attributes:
        n_rows: Rows scored since it was started.
        n_files_done: Files that stand whole, those of earlier starts included.
        n_files: Files in all.
        bytes_done: Bytes of input that were scored since it was started.
        bytes_total: Bytes of input that were to be scored then.
    """

    n_rows: int
    n_files_done: int
    n_files: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """What was scored.

    Attributes:
        output_dir: Folder of the outputs.
        n_files: Files of the job.
        n_scored: Files scored by this start of it.
        n_kept: Files that earlier starts had finished.
        changed: Outputs that were made anew because their input changed, or because they were no longer as written.
        n_rows: Rows of all files.
        n_rows_scored: Rows scored by this start.
        n_truncated: Rows of all files that were longer than the bundle's maximum length, and lost tokens.
        n_malformed: Rows of all files without an answer.
        malformed: Why, of the first of this start.
        seconds: Time from the first file to the last; loading the bundle and looking at the files is no part of it.
        rows_per_second: Rows scored by this start over that time; 0 where there were none.
    """

    output_dir: str
    n_files: int
    n_scored: int
    n_kept: int
    changed: tuple[str, ...]
    n_rows: int
    n_rows_scored: int
    n_truncated: int
    n_malformed: int
    malformed: tuple[str, ...]
    seconds: float
    rows_per_second: float


@checked
def score_files(
    bundle: Path | str,
    inputs: Sequence[Path | str] | Path | str,
    output_dir: Path | str,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    format: str | None = None,  # noqa: A002 - as on the command line
    output_format: str | None = None,
    prefix: str = "",
    skip_malformed: bool = False,
    overwrite: bool = False,
    on_long: OnLong = "truncate",
    engine: EngineName = ONNX_RUNTIME,
    providers: Sequence[Provider] = (CPU_PROVIDER,),
    graph: GraphName = AUTO,
    threads: Threads = 0,
    bfloat16: bool = False,
    batch_size: BatchSize = 32,
    ray: str | None = None,
    ray_actors: Threads = 0,
    show_progress: Callable[[ScoreProgress], None] = lambda _: None,
) -> ScoreReport:
    """Score files and write each with its answers, keeping what an earlier start of the same job has finished.

    Args:
        bundle: The bundle's folder.
        inputs: Files and folders of CSV, tab-separated tables, JSON lines or Parquet.
        output_dir: Folder of the outputs, a file for each input; the layout of an input folder is kept.
        text: Column of the first or only text; default the task's own name for it, or ``text``.
        text_pair: Column of the second text; default the task's own name, or ``text_pair``.
        format: How the input is written; default by the ending of each file.
        output_format: How the output is written; default as the input.
        prefix: What the names of the new columns begin with.
        skip_malformed: Give rows that cannot be read null answers and an ``error``, instead of stopping at the first.
        overwrite: Replace what another job left in ``output_dir``.
        on_long: Rows longer than the bundle's maximum length: ``truncate`` them, or ``refuse`` them as malformed.
        engine: What runs the model: ``onnxruntime`` or ``openvino``.
        providers: ONNX Runtime's execution providers by full name, or pairs of a name and its options.
        graph: Form of the model: ``main``, a target of the export, or ``auto`` for what suits the first provider.
        threads: CPU threads of an engine; 0 for the cores that this process may use, on Ray for one.
        bfloat16: Whether OpenVINO computes what is not in integers in bfloat16.
        batch_size: Rows a batch.
        ray: None for this process; ``local`` for Ray on this machine, ``auto`` or an address for a cluster. Where this
            process is connected to Ray already, that is used.
        ray_actors: Engines on Ray; 0 for as many as fit.
        show_progress: Called after every portion.

    Returns:
        Counts.

    Raises:
        BundleError: If the bundle is incomplete or altered, or the model fails on a row.
        ConfigError: If an argument does not fit.
        InputError: If a file cannot be read, lacks a column or has one that the answers need, if a row is malformed, or
            if ``output_dir`` holds another job's outputs.
        MissingExtraError: If an engine, pyarrow or Ray is needed and not installed.
        OutputError: If an output cannot be written. It is as it was before, and finished files stay.
    """
    options = ScoringOptions(
        text=text, text_pair=text_pair, format=format, output_format=output_format, prefix=prefix,
        skip_malformed=skip_malformed, on_long=on_long, engine=engine, providers=tuple(providers), bfloat16=bfloat16,
        batch_size=batch_size, threads=threads, graph=graph,
    )  # fmt: skip
    if ray is None and ray_actors:
        raise ConfigError([f"ray_actors ({ray_actors}) are of Ray; give --ray too, or leave it out"])
    opened = open_bundle(bundle)
    task = task_from_json(opened.manifest.task, source=str(opened.path))
    given = [inputs] if isinstance(inputs, Path | str) else inputs
    sources = find_sources([Path(one) for one in given], Path(output_dir), options, task)
    answers = AnswerColumns(task.head, prefix, skip_malformed)
    job = Job(Path(output_dir), opened.manifest.digest, options.deciding())
    was_begun = job.refuse_mixture(sources, overwrite=overwrite)
    kept = {source for source in sources if was_begun and job.finished(source)}
    # before anything is written: whoever has to name a column then begins with an empty folder
    left = [PlannedFile(one, layout_of(one, options, task, answers)) for one in sources if one not in kept]
    job.begin()
    with ExitStack() as stack:
        if not left:
            return _report(job, sources, kept, _Tally(left, len(kept), show_progress), ())
        if ray is not None:
            actors = RayActors(address=ray, n_actors=ray_actors, bundle=opened.path, digest=opened.manifest.digest)
            stream = stack.enter_context(ray_stream(actors, options))
        else:
            scorer = PortionScorer.load(opened.path, options)
            if scorer.classifier.bundle.manifest.digest != opened.manifest.digest:
                raise InputError(f"{opened.path} was replaced while the job began; start again")
            stream = local_stream(scorer)
        changed = tuple(str(job.target(file.source)) for file in left if _was_finished(job.known(file.source)))
        tally = _Tally(left, len(kept), show_progress)
        for written in write_outputs(job, left, answers, stream(left), show=tally.add):
            tally.finish(written.faults)
    return _report(job, sources, kept, tally, changed)


def _was_finished(record: FileRecord | None) -> bool:
    return record is not None and record.output_bytes >= 0


class _Tally:
    """Counts what is scored."""

    def __init__(self, files: Sequence[PlannedFile], n_kept: int, show: Callable[[ScoreProgress], None]) -> None:
        self._total, self._n_files, self._show = sum(file.layout.size for file in files), n_kept + len(files), show
        self._n_kept, self._bytes = n_kept, 0
        self.n_rows, self.n_files, self.faults, self.started = 0, 0, list[str](), time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since the first file was begun."""
        return time.perf_counter() - self.started

    def add(self, portion: ScoredPortion) -> None:
        """Count a portion and show how far the job is."""
        self.n_rows += portion.n_rows
        self._bytes += portion.weight
        self._show(
            ScoreProgress(
                n_rows=self.n_rows, n_files_done=self._n_kept + self.n_files, n_files=self._n_files,
                bytes_done=self._bytes, bytes_total=self._total,
            )
        )  # fmt: skip

    def finish(self, faults: Sequence[str]) -> None:
        """Count a file."""
        self.n_files += 1
        self.faults += faults[: N_FAULTS_TOLD - len(self.faults)]


def _report(
    job: Job, sources: Sequence[Source], kept: set[Source], tally: _Tally, changed: tuple[str, ...]
) -> ScoreReport:
    records = [record for source in sources if (record := job.known(source)) is not None]
    seconds = tally.seconds if tally.n_files else 0.0
    return ScoreReport(
        output_dir=str(job.output_dir),
        n_files=len(sources),
        n_scored=tally.n_files,
        n_kept=len(kept),
        changed=changed,
        n_rows=sum(record.n_rows for record in records),
        n_rows_scored=tally.n_rows,
        n_truncated=sum(record.n_truncated for record in records),
        n_malformed=sum(record.n_malformed for record in records),
        malformed=tuple(tally.faults),
        seconds=round(seconds, 3),
        rows_per_second=round(tally.n_rows / seconds, 1) if seconds else 0.0,
    )
