"""A run folder from options: made, resumed or refused; trained; read back.

==================  ==========================================================
``run.json``        options that decide the results, versions, status
``log.jsonl``       every event
``tensorboard/``    the same as curves
``checkpoints/``    the newest checkpoint and the best one
==================  ==========================================================
"""

import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from q8bert.glue.examples import Split
from q8bert.glue.readers import read_split
from q8bert.glue.tokenizer import TextTokenizer
from q8bert.spec.environment import installed_ort_build
from q8bert.spec.errors import CheckpointError
from q8bert.spec.files import read_json, write_json
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
from q8bert.training.run_log import RunLog
from q8bert.training.sites import Site, find_sites
from q8bert.training.torch_engine import TorchEngine, quantize_activation
from q8bert.training.trainer import Schedule, TrainingState, calibrate, train_epochs
from q8bert.training.weights import TrainableWeights, prepare_weights, quantized_parameters

__all__ = ["RunResult", "best_checkpoint", "read_run", "train"]

RUN_FILE = "run.json"
RUN_VERSION = 1

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
    _prepare_folder(config, overwrite=overwrite)
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
    report(f"{config.task.name}: {len(train_split.examples)} training rows, {len(dev_split.examples)} dev rows")
    training = _Training(config, source, train_split, dev_split, report)
    folders = checkpoint_folders(config.output_dir)
    resume = load_checkpoint(folders[max(folders)]) if folders else None
    progress = training.run(resume, show_step)
    best = load_checkpoint(checkpoint_folders(config.output_dir)[progress.best_step])
    skipped = tuple(str(row) for split in (train_split, dev_split) for row in split.skipped)
    return RunResult(config.output_dir, progress.best_step, best.progress.metrics, progress.step, skipped)


def read_run(path: Path) -> TrainConfig:
    """Read the options of a run from its folder.

    Args:
        path: Folder of the run.

    Returns:
        Its options.

    Raises:
        CheckpointError: If it is no run.
    """
    try:
        content = read_json(path / RUN_FILE)
        options = content["options"]
        found = content["run_version"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not the folder of a training run ({type(error).__name__}: {error}). "
            "Make one with `q8bert train`"
        ) from error
    if found != RUN_VERSION or not isinstance(options, dict):
        raise CheckpointError(f"{path} is a run of version {found!r}; this release reads {RUN_VERSION}")
    return TrainConfig.from_identity(options, output_dir=path)


def best_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint with the best dev score of a run.

    Args:
        path: Folder of the run.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If the run has none yet, or it is damaged.
    """
    folders = checkpoint_folders(path)
    if not folders:
        raise CheckpointError(f"{path} has no checkpoint yet; train it to the end of an epoch first")
    best_step = load_checkpoint(folders[max(folders)]).progress.best_step
    if best_step not in folders:
        raise CheckpointError(f"{path}: the best checkpoint, of step {best_step}, is missing")
    return load_checkpoint(folders[best_step])


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


def _prepare_folder(config: TrainConfig, *, overwrite: bool) -> None:
    """Make the run's folder, accept one with the same options, or refuse."""
    folder = config.output_dir
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"--output-dir {folder} is a file; give a folder")
    if overwrite and (folder / RUN_FILE).is_file():
        shutil.rmtree(folder)
    if (folder / RUN_FILE).is_file():
        differences = _differences(read_run(folder).identity(), config.identity())
        if differences:
            raise CheckpointError(
                f"{folder} holds a run with other options ({'; '.join(differences)}). Give another --output-dir, the "
                "same options to go on with it, or --overwrite to delete it"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty and holds no run of q8bert; give an empty or new --output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    content = {"run_version": RUN_VERSION, "options": config.identity(), "versions": library_versions()}
    write_json(folder / RUN_FILE, content)


def library_versions() -> dict[str, str]:
    """Return the versions of what takes part in training, by distribution name."""
    build = installed_ort_build()
    names = ("q8bert", "torch", "transformers", "tokenizers", "onnx", "onnxscript", "numpy")
    return {"python": platform.python_version(), build.distribution: build.version} | {
        name: version(name) for name in names
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {old.get(name)!r} there, {new.get(name)!r} asked"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]
