"""``train(TrainConfig)``: options → a trained run, resumed where one was interrupted."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from q8bert.glue.examples import Split
from q8bert.glue.readers import read_split
from q8bert.glue.tokenizer import TextTokenizer
from q8bert.training.batches import TokenizedSplit, tokenize_split
from q8bert.training.checkpoint import (
    Checkpoint,
    Progress,
    checkpoint_folders,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from q8bert.training.config import TrainConfig
from q8bert.training.engine import Engine
from q8bert.training.model_source import SourceModel, load_source_model
from q8bert.training.optimization import adamw
from q8bert.training.ort_engine import OrtEngine, check_training_build
from q8bert.training.quantized_model import QuantizedModel
from q8bert.training.ranges import RangeState
from q8bert.training.run_folder import best_checkpoint, prepare_folder
from q8bert.training.run_log import RunLog
from q8bert.training.sites import Site, find_sites
from q8bert.training.torch_engine import TorchEngine, quantize_activation
from q8bert.training.trainer import Schedule, TrainingState, calibrate, train_epochs
from q8bert.training.weights import TrainableWeights, prepare_weights, quantized_parameters

__all__ = ["RunResult", "train"]

Report = Callable[[str], None]
ShowStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to.

    Attributes:
        path: Folder of the run.
        best_step: Step of the best checkpoint.
        metrics: Its scores on the dev split, as fractions. They also picked it, so they flatter it a little.
        n_steps: Optimizer steps in all.
        skipped: Malformed rows that were left out, one line each.
    """

    path: Path
    best_step: int
    metrics: Mapping[str, float]
    n_steps: int
    skipped: tuple[str, ...] = ()


def train(
    config: TrainConfig,
    *,
    overwrite: bool = False,
    report: Report = lambda _: None,
    show_step: ShowStep = lambda *_: None,
) -> RunResult:
    """Fine-tune a classifier as the options say, or go on with a run that was interrupted.

    Args:
        config: The options.
        overwrite: Delete a run of other options that stands in the output folder.
        report: Called with a sentence at every stage.
        show_step: Called with step, number of steps and loss after each step.

    Returns:
        The scores of the best checkpoint.

    Raises:
        CheckpointError: If the output folder holds something else, or a damaged checkpoint.
        InputError: If the data cannot be read.
        ModelError: If the model cannot be found or fully quantized.
        ProviderError: If the engine cannot be had.
    """
    if config.engine == "ort":
        check_training_build()
    train_split = read_split(config.task, config.data_dir, "train", skip_malformed=config.skip_malformed)
    dev_split = read_split(config.task, config.data_dir, "dev", skip_malformed=config.skip_malformed)
    dev_split.labels()
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    source = load_source_model(
        config.model,
        n_outputs=config.task.n_outputs,
        labels=config.task.labels,
        max_length=config.max_length,
        dropout=config.dropout,
    )
    prepare_folder(config, overwrite=overwrite)  # not before all that can be refused was checked
    report(f"{config.task.name}: {len(train_split.examples)} training rows, {len(dev_split.examples)} dev rows")
    training = _Training(config, source, train_split, dev_split, report)
    folders = checkpoint_folders(config.output_dir)
    resume = load_checkpoint(folders[max(folders)]) if folders else None
    progress = training.run(resume, show_step)
    best = best_checkpoint(config.output_dir)
    skipped = tuple(str(row) for split in (train_split, dev_split) for row in split.skipped)
    return RunResult(config.output_dir, progress.best_step, best.progress.metrics, progress.step, skipped)


class _Training:
    """The parts of one run, put together from its options."""

    def __init__(
        self, config: TrainConfig, source: SourceModel, train_split: Split, dev_split: Split, report: Report
    ) -> None:
        self._config = config
        self._source = source
        self._report = report
        self._sites = find_sites(source.model) if config.quantize else ()
        self._train = self._tokenize(train_split)
        self._dev = self._tokenize(dev_split)

    def run(self, resume: Checkpoint | None, show_step: ShowStep) -> Progress:
        config, model = self._config, self._source.model
        per_channel = config.granularity == "per_channel"
        quantized = quantized_parameters(model, per_channel=per_channel) if config.quantize else {}
        weights = prepare_weights(model, quantized)
        optimizer = adamw(weights.masters, weight_decay=config.weight_decay)
        if resume is None:
            state = TrainingState(self._first_ranges(), Progress(0, 0, {}, 0, 0.0))
        else:
            restore(model, optimizer, resume)
            weights.requantize()
            state = TrainingState(resume.ranges, resume.progress)
            self._report(f"going on from step {resume.progress.step} (epoch {resume.progress.epoch} done)")
        if state.progress.epoch >= config.epochs:
            return state.progress
        engine = _build_engine(config, self._source, self._sites, weights, self._report)
        with RunLog(config.output_dir, resume_step=state.progress.step) as log:
            state = train_epochs(
                engine,
                optimizer,
                weights,
                state,
                task=config.task,
                train=self._train,
                dev=self._dev,
                schedule=Schedule(**{name: getattr(config, name) for name in Schedule.__dataclass_fields__}),
                log=log,
                save=lambda state: self._save(state, optimizer),
                show_step=show_step,
            )
        return state.progress

    def _first_ranges(self) -> RangeState:
        config = self._config
        if not self._sites:
            return RangeState.empty(0, decay=config.range_decay)
        self._report(f"observing {config.calibration_batches} float batches for the first ranges")
        return calibrate(
            QuantizedModel(self._source.model, self._sites, quantize_activation),
            self._train,
            batch_size=config.batch_size,
            n_batches=config.calibration_batches,
            seed=config.seed,
            decay=config.range_decay,
            n_sites=len(self._sites),
        )

    def _save(self, state: TrainingState, optimizer: torch.optim.Optimizer) -> None:
        progress = state.progress
        save_checkpoint(
            self._config.output_dir,
            model=self._source.model,
            tokenizer=self._source.tokenizer,
            optimizer=optimizer,
            ranges=state.ranges,
            sites=self._sites,
            progress=progress,
            input_names=self._source.input_names,
            pad_token_id=self._source.pad_token_id,
        )
        for step, folder in checkpoint_folders(self._config.output_dir).items():
            if step not in {progress.step, progress.best_step}:
                shutil.rmtree(folder)
        scores = ", ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
        mark = " (best so far)" if progress.best_step == progress.step else ""
        self._report(f"epoch {progress.epoch}/{self._config.epochs}, dev: {scores}{mark}")

    def _tokenize(self, split: Split) -> TokenizedSplit:
        # the checkpoint keeps the tokenizer as it came; this copy truncates
        tokenizer = Tokenizer.from_str(self._source.tokenizer.to_str())
        return tokenize_split(
            split,
            self._config.task,
            TextTokenizer(tokenizer, max_length=self._config.max_length),
            input_names=self._source.input_names,
            pad_token_id=self._source.pad_token_id,
        )


def _build_engine(
    config: TrainConfig,
    source: SourceModel,
    sites: tuple[Site, ...],
    weights: TrainableWeights,
    report: Report,
) -> Engine:
    model: PreTrainedModel = source.model
    if config.engine == "torch":
        return TorchEngine(model, sites, weights)
    report("building the gradient graph for ONNX Runtime (some ten seconds)")
    return OrtEngine(
        model,
        sites,
        weights,
        input_names=source.input_names,
        n_outputs=config.task.n_outputs,
        regression=config.task.is_regression,
        threads=config.threads,
    )
