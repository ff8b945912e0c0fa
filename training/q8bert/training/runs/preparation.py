"""Options → what a run works with: model, tokenizer, data; read and checked before a folder is touched."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from tokenizers import Tokenizer

from q8bert.data.examples import Split
from q8bert.tasks.metrics import refuse_undefined
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.loop.batches import TokenizedSplit, tokenize_split
from q8bert.training.loop.schedule import Schedule, make_schedule
from q8bert.training.models.head_units import change_units
from q8bert.training.models.source import SourceModel, load_source_model, position_limit
from q8bert.training.models.tokenizer.vocabulary import notes_on_tokenizer, other_vocabulary
from q8bert.training.objectives.objective import Teachable, objective_of
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.quantization.sites import Site, find_sites, matching_layers
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.data_report import DataReport, SplitReport, report_split
from q8bert.training.runs.identity.fingerprints import (
    Fingerprint,
    fingerprint_of_grids,
    fingerprint_of_rows,
    fingerprints_of_model,
)
from q8bert.training.runs.starting_point import Grids, starting_point

__all__ = ["Preparation", "prepare", "schedule_of"]


@dataclass(frozen=True)
class Preparation:
    """What a run works with; the model's weights change, nothing else does.

    Attributes:
        source: Model, tokenizer and input names; the model is on the device.
        objective: What is learned.
        target_scale: The units in which it is; a head that came trained has been brought to them.
        sites: Where activations can be quantized, not smoothed yet; empty for a float run.
        float_layers: Linear and Embedding layers that stay float on request.
        train: Training rows.
        dev: Rows that pick the best checkpoint.
        data: How many rows there are, and what of them is lost.
        skipped: Malformed rows that were left out, one line each.
        inputs: Fingerprints of ``train`` and ``dev`` rows and of the model, as they were read.
        grids: Ranges, smoothing and zero points that quantization starts with; None where it calibrates.
        texts: Training rows as they were read, for a finished teacher, which tokenizes them its own way; None without.
    """

    source: SourceModel
    objective: Teachable
    target_scale: TargetScale
    sites: tuple[Site, ...]
    float_layers: tuple[str, ...]
    train: TokenizedSplit
    dev: TokenizedSplit
    data: DataReport
    skipped: tuple[str, ...]
    inputs: Mapping[str, Fingerprint]
    grids: Grids | None
    texts: Split | None


def prepare(config: TrainConfig, device: torch.device, report: Callable[[str], None]) -> Preparation:
    """Read data and model.

    Args:
        config: The options.
        device: Where the model is wanted.
        report: Called with a sentence at every stage.

    Returns:
        What the run works with.

    Raises:
        InputError: If the data cannot be read, or the main metric is undefined on the dev split.
        CheckpointError: If the model is a run or checkpoint that cannot be used.
        ConfigError: If the model's grids are wanted, and it has none.
        ModelError: If the model cannot be found or fully quantized.
    """
    head, quantization = config.task.head, config.quantization
    splits = {name: config.rows.read(config.task, name) for name in ("train", "dev")}
    labels = {name: split.labels() for name, split in splits.items()}
    refuse_undefined(config.task, labels["dev"], source=splits["dev"].source)
    target_scale = UNSCALED
    if head.is_regression:
        target_scale = TargetScale.of_scores(labels["train"], source=splits["train"].source)
    start = starting_point(config, report)
    torch.manual_seed(config.seed)
    source = load_source_model(
        start.place,
        n_outputs=head.n_outputs,
        labels=head.labels,
        max_length=config.max_length,
        dropout=config.dropout,
        revision=config.revision,
        architecture=config.architecture,
        tokenizer=config.tokenizer,
    )
    inputs = {name: fingerprint_of_rows(split) for name, split in splits.items()}
    inputs |= fingerprints_of_model(source)  # before anything is changed in it
    if source.head_units is not None:
        change_units(source.model, given=source.head_units, wanted=target_scale)
    model = source.model.to(device)  # type: ignore[arg-type]
    float_layers = matching_layers(model, quantization.keep_float)
    sites = find_sites(model, keep_float=float_layers) if quantization.quantize else ()
    grids = start.grids(sites, quantization)
    if grids is not None:
        inputs["grids"] = fingerprint_of_grids(grids.sites, grids.ranges.amax())
    train, dev = (_tokenized(split, source, config) for split in splits.values())
    for line in source.report.lines():
        report(line)
    report(f"{config.task.name}: {len(train)} training rows, {len(dev)} dev rows")
    for note in (note for split in splits.values() for note in split.notes):
        report(f"note: {note}")
    if config.tokenizer is not None and (other := other_vocabulary(source.folder, source.tokenizer)):
        report(f"note: the tokenizer of {config.tokenizer} is not the model's own: {other}")
    for note in notes_on_tokenizer(source.tokenizer, train.encoded):
        report(f"note: {note}")
    counts = [_counted(split, rows, source, config) for split, rows in zip(splits.values(), (train, dev), strict=True)]
    data = DataReport(train=counts[0], dev=counts[1])
    for sentence in data.sentences(longest=position_limit(source.model)):
        report(sentence)
    if float_layers:
        report(f"staying float as asked: {', '.join(float_layers)}")
    return Preparation(
        source=source,
        objective=objective_of(head),
        target_scale=target_scale,
        sites=sites,
        float_layers=float_layers,
        train=replace(train, is_shuffled=config.optimization.shuffle),
        dev=dev,
        data=data,
        skipped=tuple(str(row) for split in splits.values() for row in split.skipped),
        inputs=inputs,
        grids=grids,
        texts=splits["train"] if config.distillation.finished_teacher is not None else None,
    )


def schedule_of(config: TrainConfig, train: TokenizedSplit, *, n_processes: int) -> Schedule:
    """Return when what happens in a run.

    Args:
        config: The options.
        train: Its training rows.
        n_processes: Processes that train together.

    Returns:
        The schedule, in optimizer steps.

    Raises:
        ConfigError: If the options leave no steps, or too few evaluations, for what is asked.
    """
    return make_schedule(
        train,
        optimization=config.optimization,
        evaluation=config.evaluation,
        record=config.record,
        quantization=config.quantization,
        seed=config.seed,
        n_processes=n_processes,
    )


def _tokenized(split: Split, source: SourceModel, config: TrainConfig) -> TokenizedSplit:
    # the checkpoint keeps the tokenizer as it came; this copy is the encoder's own
    tokenizer = Tokenizer.from_str(source.tokenizer.to_str())
    return tokenize_split(
        split,
        config.task.head,
        TextTokenizer(
            tokenizer,
            max_length=config.max_length,
            obey_special_tokens=config.obey_special_tokens,
            pad_token_id=source.pad_token_id,
        ),
        input_names=source.input_names,
        pad_token_id=source.pad_token_id,
    )


def _counted(split: Split, rows: TokenizedSplit, source: SourceModel, config: TrainConfig) -> SplitReport:
    return report_split(
        split,
        rows.encoded,
        head=config.task.head,
        tokenizer=source.tokenizer,
        max_length=config.max_length,
        obey_special_tokens=config.obey_special_tokens,
    )
