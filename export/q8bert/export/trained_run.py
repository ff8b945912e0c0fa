"""A run's best checkpoint, loaded to be exported."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from q8bert.data.row_source import RowSource
from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport, Origin
from q8bert.spec.errors import ExportError, InputError
from q8bert.training.models.source import load_source_model
from q8bert.training.quantization.config import QuantizationConfig
from q8bert.training.quantization.sites import matching_layers
from q8bert.training.quantization.weights import grids_of, prepare_weights
from q8bert.training.runs.checkpoints.checkpoint import Checkpoint, checkpoint_folders
from q8bert.training.runs.checkpoints.checkpoint_state import read_state
from q8bert.training.runs.checkpoints.resume import copy_weights
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.data_report import read_data_report
from q8bert.training.runs.identity.fingerprints import Fingerprint, fingerprint_of_rows
from q8bert.training.runs.identity.run_record import RunRecord, read_record
from q8bert.training.runs.run_folder import best_checkpoint

__all__ = ["TrainedRun", "load_trained_run"]

_CONSEQUENCE = {
    "dev": "the scores of the comparison are not to be held against those of training",
    "train": "the ranges are calibrated on other rows",
}


@dataclass(frozen=True)
class TrainedRun:
    """A run's options and its best checkpoint.

    Attributes:
        config: Options of the run.
        inputs: Fingerprints of what the run was started with; none of an earlier release's.
        checkpoint: The best checkpoint.
        model: What is exported of it, on grids without saturation, whether or not it was trained on them.
        stopped_at: Step after which training was stopped; None where it came to its end.
    """

    config: TrainConfig
    inputs: Mapping[str, Fingerprint]
    checkpoint: Checkpoint
    model: ModelToExport
    stopped_at: int | None

    def source(self, data_dir: str | None = None) -> RowSource:
        """Return where rows are: where the run had them, or all in another folder, read in the same way."""
        rows = self.config.rows
        return rows if data_dir is None else replace(rows, data_dir=data_dir, train_file=None, dev_file=None)

    def rows(self, source: RowSource, name: str, report: Callable[[str], None]) -> EncodedRows:
        """Read and tokenize a split.

        Args:
            source: Where it is.
            name: ``dev`` or ``train``.
            report: Called with a sentence where the rows are not those that the run had.

        Returns:
            Its rows.

        Raises:
            ExportError: If it cannot be read.
        """
        purpose = "to compare the exported model on" if name == "dev" else "to calibrate on"
        try:
            split = source.read(self.config.task, name)
        except InputError as error:
            remedy = ", or leave the comparison out with --no-parity" if name == "dev" else ""
            raise ExportError(
                f"the {name} split {purpose} cannot be read: {error}. Give its folder with --data-dir{remedy}"
            ) from error
        if name in self.inputs and fingerprint_of_rows(split) != self.inputs[name]:
            report(
                f"note: the {name} rows of {source.place(name)} are not those that the run had "
                f"({len(split.examples)} now, {self.inputs[name].size} then): {_CONSEQUENCE[name]}"
            )
        return self.model.encode(split, labelled=True)


def load_trained_run(run: Path, *, max_length: int | None = None) -> TrainedRun:
    """Load a run's best checkpoint.

    Args:
        run: Folder of the run.
        max_length: Longest row in tokens; None for the run's own.

    Returns:
        The run.

    Raises:
        CheckpointError: If the run has no whole checkpoint.
        ModelError: If the model cannot take rows of ``max_length``.
    """
    record = read_record(run)
    config = record.config(run)
    checkpoint = best_checkpoint(run)
    head, max_length = config.task.head, max_length or config.max_length
    source = load_source_model(
        str(checkpoint.path),
        n_outputs=head.n_outputs,
        labels=head.labels,
        max_length=max_length,
        dropout=None,
    )
    copy_weights(source.model, checkpoint)
    source = replace(source, input_names=checkpoint.input_names, pad_token_id=checkpoint.pad_token_id)
    options, data = config.quantization, read_data_report(run)
    float_layers = matching_layers(source.model, options.keep_float)
    # on grids without saturation, whether or not they were trained on them
    quantized = grids_of(source.model, replace(options, saturation_free=True), float_layers=float_layers)
    model = ModelToExport(
        source=source,
        task=config.task,
        max_length=max_length,
        obey_special_tokens=checkpoint.obey_special_tokens,
        target_scale=checkpoint.target_scale,
        sites=checkpoint.sites,
        amax=checkpoint.ranges.amax() if checkpoint.sites else None,
        weights=prepare_weights(source.model, quantized, checkpoint.sites),
        granularity=options.granularity,
        table_granularity=options.table_granularity,
        float_layers=float_layers,
        origin=Origin(
            model={
                "source": config.model,
                "seed": config.seed,
                "checkpoint_step": checkpoint.progress.step,
                **_teacher(record, config),
            },
            quantization=_told(options),
            metrics=checkpoint.progress.metrics,
            data={} if data is None else asdict(data),
        ),
    )
    return TrainedRun(config, record.inputs, checkpoint, model, _stopped_at(run))


def _teacher(record: RunRecord, config: TrainConfig) -> dict[str, object]:
    """Return who was learned from besides the labels, for the manifest; nothing where nobody was."""
    options, head = config.distillation, config.task.head
    if options.teacher is None:
        return {}
    found: dict[str, object] = {"model": options.teacher, "weight": options.teacher_weight}
    if not head.is_regression:
        found["temperature"] = options.teacher_temperature
    if "teacher_weights" in record.inputs:
        found["weights_sha256"] = record.inputs["teacher_weights"].sha256
    return {"teacher": found}


def _told(options: QuantizationConfig) -> dict[str, object]:
    if not options.quantize:
        return {}
    percentile = {} if options.percentile is None else {"range_percentile": options.percentile}
    return {"quantize_from": options.quantize_from, "ranges": options.ranges, **percentile}


def _stopped_at(run: Path) -> int | None:
    newest, folder = list(checkpoint_folders(run).items())[-1]
    return None if read_state(folder, check_files=False).is_last else newest
