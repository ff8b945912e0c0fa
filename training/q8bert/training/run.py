"""``train(TrainConfig)``: options → a trained run, resumed where one was interrupted."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from platformdirs import user_cache_path
from tokenizers import Tokenizer

from q8bert.data.examples import Split
from q8bert.data.readers import read_split
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.engines.device import resolve_device
from q8bert.training.engines.engine import Engine
from q8bert.training.engines.ort_engine import OrtEngine
from q8bert.training.engines.programs import Programs, cached_programs
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.loop.batches import TokenizedSplit, fingerprint, first_passes, tokenize_split
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.optimization import adamw
from q8bert.training.loop.processes import Processes, default_threads, joined_processes
from q8bert.training.loop.progress import Progress
from q8bert.training.loop.schedule import Schedule, make_schedule
from q8bert.training.loop.trainer import Parts, TrainingState, train_steps
from q8bert.training.models.source import load_source_model
from q8bert.training.quantization.calibration import calibrate
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.sites import Site, find_sites, matching_layers
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights, quantized_parameters
from q8bert.training.runs.checkpoint import prune_checkpoints, save_checkpoint
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.resume import restore
from q8bert.training.runs.run_folder import RUN_FILE, best_checkpoint, newest_checkpoint, prepare_folder
from q8bert.training.runs.run_log import RunLog
from q8bert.training.runs.run_result import RunResult

__all__ = ["train"]

Report = Callable[[str], None]
ShowStep = Callable[[int, int, float], None]


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
    device = resolve_device(config.execution.device, engine=config.execution.engine)
    with joined_processes(device) as processes:
        if not processes.is_first:
            report, show_step = (lambda _: None), (lambda *_: None)
        threads = config.execution.threads or default_threads()
        if threads:
            torch.set_num_threads(threads)
        return _Run(config, device, processes, threads, report).train(show_step, overwrite=overwrite)


class _Run:
    """One run, put together from its options."""

    def __init__(
        self, config: TrainConfig, device: torch.device, processes: Processes, threads: int, report: Report
    ) -> None:
        self._config = config
        self._device = device
        self._processes = processes
        self._threads = threads
        self._report = report
        train_split = read_split(config.task, config.data_dir, "train", skip_malformed=config.skip_malformed)
        dev_split = read_split(config.task, config.data_dir, "dev", skip_malformed=config.skip_malformed)
        dev_split.labels()
        self._skipped = tuple(str(row) for split in (train_split, dev_split) for row in split.skipped)
        torch.manual_seed(config.seed)
        self._source = load_source_model(
            config.model,
            n_outputs=config.task.head.n_outputs,
            labels=config.task.head.labels,
            max_length=config.max_length,
            dropout=config.dropout,
        )
        self._model = self._source.model.to(device)  # type: ignore[arg-type]
        self._float_layers = matching_layers(self._model, config.quantization.keep_float)
        self._sites = find_sites(self._model, keep_float=self._float_layers) if config.quantization.quantize else ()
        self._train = self._tokenize(train_split)
        self._dev = self._tokenize(dev_split)
        report(f"{config.task.name}: {len(self._train)} training rows, {len(self._dev)} dev rows")
        if self._float_layers:
            report(f"staying float as asked: {', '.join(self._float_layers)}")

    def train(self, show_step: ShowStep, *, overwrite: bool) -> RunResult:
        config = self._config
        if self._processes.is_first:  # not before all that can be refused was checked
            prepare_folder(config, n_processes=self._processes.count, overwrite=overwrite)
        self._processes.wait()
        is_there = (config.output_dir / RUN_FILE).is_file()
        self._processes.agree(int(is_there), on=f"whether {config.output_dir} holds the run (here {is_there})")
        self._processes.agree(
            fingerprint(config.identity(), (self._train, self._dev)),
            on="options and data", remedy="Give every process the same options and the same data",
        )  # fmt: skip
        masters = dict(self._model.named_parameters())
        for master in masters.values():
            self._processes.take_first_(master.data)  # machines may hold other copies of a model
        optimizer = adamw(masters, weight_decay=config.optimization.weight_decay)
        state = self._first_state(optimizer)
        weights = prepare_weights(self._model, self._quantized(), state.sites)
        schedule = make_schedule(
            self._train,
            optimization=config.optimization,
            evaluation=config.evaluation,
            record=config.record,
            quantization=config.quantization,
            seed=config.seed,
            n_processes=self._processes.count,
        )
        if not schedule.is_over(state.progress):
            state = self._train_on(optimizer, weights, state, schedule, show_step)
        self._processes.wait()  # the last checkpoint is written
        best = best_checkpoint(config.output_dir)
        if self._processes.is_first:  # a kill may have come between the last checkpoint and this
            prune_checkpoints(config.output_dir, keep=config.record.keep_checkpoints, best_step=best.progress.step)
        return RunResult(
            path=config.output_dir,
            best_step=best.progress.step,
            metrics=best.progress.metrics,
            n_steps=state.progress.step,
            skipped=self._skipped,
            float_layers=self._float_layers,
            n_skipped_steps=state.loss_scale.n_skipped,
        )

    def _quantized(self) -> dict[str, WeightGrid]:
        options = self._config.quantization
        if not options.quantize:
            return {}
        return quantized_parameters(
            self._model,
            per_channel=options.per_channel,
            saturation_free=options.saturation_free,
            keep_float=self._float_layers,
        )

    def _train_on(
        self,
        optimizer: torch.optim.Optimizer,
        weights: TrainableWeights,
        state: TrainingState,
        schedule: Schedule,
        show_step: ShowStep,
    ) -> TrainingState:
        config, is_first = self._config, self._processes.is_first
        engine = self._engine(weights, state, schedule)
        parts = Parts(engine, optimizer, weights, config.task, self._train, self._dev, self._processes)
        with RunLog(config.output_dir, resume_step=state.progress.step) if is_first else nullcontext() as log:
            return train_steps(
                parts,
                state,
                schedule,
                log=log.write if log is not None else lambda *_, **__: None,
                save=lambda state, *, is_evaluated: self._save(state, optimizer, schedule, is_evaluated=is_evaluated),
                show_step=show_step,
            )

    def _first_state(self, optimizer: torch.optim.Optimizer) -> TrainingState:
        resume = newest_checkpoint(self._config.output_dir, self._model, self._sites)
        step = 0 if resume is None else resume.progress.step
        self._processes.agree(step, on=f"the step to go on from (here {step})")
        if resume is None:
            sites, ranges = self._calibrated()
            return TrainingState(sites, ranges, Progress(), self._first_loss_scale())
        restore(self._model, optimizer, resume)
        self._report(f"going on from step {resume.progress.step}")
        return TrainingState(resume.sites, resume.ranges, resume.progress, resume.loss_scale)

    def _calibrated(self) -> tuple[tuple[Site, ...], RangeState]:
        options, optimization = self._config.quantization, self._config.optimization
        if not self._sites:
            return (), RangeState.empty(0, decay=options.range_decay)
        self._report(f"observing {options.calibration_batches} float batches for the first ranges")
        sites, ranges = calibrate(
            self._model,
            self._sites,
            first_passes(
                self._train,
                n_steps=options.calibration_batches,
                rows_per_step=optimization.rows_per_step(self._processes.count),
                batch_size=optimization.batch_size,
                seed=self._config.seed,
                rank=self._processes.rank,
                n_processes=self._processes.count,
            ),
            decay=options.range_decay,
            smoothing=options.smoothing,
            take_largest=self._processes.max_,
        )
        n_smoothed = sum(bool(site.smoothing) for site in sites)
        self._report(f"outliers are smoothed at {n_smoothed} of {len(sites)} activations")
        return sites, ranges

    def _first_loss_scale(self) -> LossScale:
        options = self._config.execution
        if options.precision != "float16":
            return LossScale()
        return LossScale(options.loss_scale, options.loss_scale_factor, options.loss_scale_window)

    def _engine(self, weights: TrainableWeights, state: TrainingState, schedule: Schedule) -> Engine:
        config, sites = self._config, state.sites
        if config.execution.engine == "torch":
            return TorchEngine(self._model, sites, weights, precision=config.execution.precision)
        # all that the steps to come need, so that nothing fails half-way; one process builds, the others then find it
        wanted = {
            config.quantization.quantize and schedule.is_quantized(step)
            for step in (state.progress.step, schedule.n_steps - 1)
        }
        build = partial(self._programs, sites)
        programs = {quantize: build(quantize=quantize) for quantize in wanted if self._processes.is_first}
        self._processes.wait()
        programs |= {quantize: build(quantize=quantize) for quantize in wanted - programs.keys()}
        return OrtEngine(
            lambda *, quantize: programs[quantize],
            weights,
            sites=sites,
            n_outputs=config.task.head.n_outputs,
            precision=config.execution.precision,
            threads=self._threads,
        )

    def _programs(self, sites: tuple[Site, ...], *, quantize: bool) -> Programs:
        return cached_programs(
            self._model,
            sites,
            quantize=quantize,
            input_names=self._source.input_names,
            regression=self._config.task.head.is_regression,
            precision=self._config.execution.precision,
            device_type=self._device.type,
            cache_dir=self._config.execution.cache_dir or user_cache_path("q8bert") / "graphs",
            report=self._report,
        )

    def _save(
        self, state: TrainingState, optimizer: torch.optim.Optimizer, schedule: Schedule, *, is_evaluated: bool
    ) -> None:
        progress = state.progress
        if is_evaluated:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
            mark = " (best so far)" if progress.best_step == progress.step else ""
            if not schedule.has_trained_quantized(progress.step):
                mark = f" (float; quantization starts at step {schedule.quantize_from})"
            epoch = progress.step / schedule.steps_per_epoch
            self._report(f"step {progress.step}/{schedule.n_steps}, epoch {epoch:.4g}, dev: {scores}{mark}")
        if not self._processes.is_first:
            return
        save_checkpoint(
            self._config.output_dir,
            model=self._model,
            tokenizer=self._source.tokenizer,
            optimizer=optimizer,
            ranges=state.ranges,
            sites=state.sites,
            progress=progress,
            loss_scale=state.loss_scale,
            input_names=self._source.input_names,
            pad_token_id=self._source.pad_token_id,
        )
        prune_checkpoints(
            self._config.output_dir, keep=self._config.record.keep_checkpoints, best_step=progress.best_step
        )

    def _tokenize(self, split: Split) -> TokenizedSplit:
        # the checkpoint keeps the tokenizer as it came; this copy truncates
        tokenizer = Tokenizer.from_str(self._source.tokenizer.to_str())
        return tokenize_split(
            split,
            self._config.task.head,
            TextTokenizer(tokenizer, max_length=self._config.max_length),
            input_names=self._source.input_names,
            pad_token_id=self._source.pad_token_id,
        )
