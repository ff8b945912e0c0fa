"""``train(TrainConfig)``: options → a trained run, resumed where one was interrupted.

A quantized run has two phases. Until quantization starts it is its FP32 twin, on the same program. Then calibration
looks at the model as it is by now, decides what is smoothed and where ranges start, and the second phase goes on with
the same optimizer on a program with fake quantization.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from platformdirs import user_cache_path

from q8bert.spec.checked import checked
from q8bert.training.engines.device import resolve_device
from q8bert.training.engines.engine import Engine
from q8bert.training.engines.ort_engine import OrtEngine
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.loop.batches import fingerprint, passes_of_steps
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.optimization import adamw
from q8bert.training.loop.processes import Processes, default_threads, joined_processes
from q8bert.training.loop.progress import Progress
from q8bert.training.loop.schedule import make_schedule
from q8bert.training.loop.step import TrainingState
from q8bert.training.loop.trainer import Parts, train_steps
from q8bert.training.programs.cache import Programs, cached_programs
from q8bert.training.quantization.calibration import calibrate
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights, quantized_parameters
from q8bert.training.runs.checkpoint import prune_checkpoints, save_checkpoint
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.data_report import write_data_report
from q8bert.training.runs.preparation import prepare
from q8bert.training.runs.resume import restore
from q8bert.training.runs.run_folder import RUN_FILE, best_checkpoint, newest_checkpoint, prepare_folder
from q8bert.training.runs.run_log import RunLog
from q8bert.training.runs.run_result import RunResult

__all__ = ["train"]

Report = Callable[[str], None]
ShowStep = Callable[[int, int, float], None]


@checked
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
    execution = config.execution
    device = resolve_device(execution.device, engine=execution.engine, gradients=execution.gradients)
    with joined_processes(device) as processes:
        if not processes.is_first:
            report, show_step = (lambda _: None), (lambda *_: None)
        threads = execution.threads or default_threads()
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
        self._given = prepare(config, device, report)
        self._model = self._given.source.model
        self._schedule = make_schedule(
            self._given.train,
            optimization=config.optimization,
            evaluation=config.evaluation,
            record=config.record,
            quantization=config.quantization,
            seed=config.seed,
            n_processes=processes.count,
        )

    def train(self, show_step: ShowStep, *, overwrite: bool) -> RunResult:
        config, schedule = self._config, self._schedule
        if self._processes.is_first:  # not before all that can be refused was checked
            prepare_folder(config, n_processes=self._processes.count, overwrite=overwrite)
            write_data_report(config.output_dir, self._given.data)
        self._agree()
        masters = dict(self._model.named_parameters())
        for master in masters.values():
            self._processes.take_first_(master.data)  # machines may hold other copies of a model
        optimizer = adamw(masters, weight_decay=config.optimization.weight_decay)
        state = self._first_state(optimizer)
        for until in (schedule.quantize_from, schedule.n_steps):
            if state.progress.step < until and not schedule.is_over(state.progress):
                state = self._train_phase(optimizer, state, show_step, until=until)
        self._processes.wait()  # the last checkpoint is written
        best = best_checkpoint(config.output_dir)
        if self._processes.is_first:  # a kill may have come between the last checkpoint and this
            prune_checkpoints(config.output_dir, keep=config.record.keep_checkpoints, best_step=best.progress.step)
        if not best.progress.has_learned:
            self._report(
                f"warning: {config.task.data.main_metric} never rose above 0 on the dev split: the model is of no use. "
                "Train longer or with another learning rate, and look whether the labels are right"
            )
        return RunResult(
            path=config.output_dir,
            best_step=best.progress.step,
            metrics=best.progress.metrics,
            n_steps=state.progress.step,
            data=self._given.data,
            skipped=self._given.skipped,
            float_layers=self._given.float_layers,
            n_skipped_steps=state.loss_scale.n_skipped,
        )

    def _agree(self) -> None:
        config, given = self._config, self._given
        self._processes.wait()
        is_there = (config.output_dir / RUN_FILE).is_file()
        self._processes.agree(int(is_there), on=f"whether {config.output_dir} holds the run (here {is_there})")
        self._processes.agree(
            fingerprint(config.identity(), (given.train, given.dev)),
            on="options and data", remedy="Give every process the same options and the same data",
        )  # fmt: skip

    def _first_state(self, optimizer: torch.optim.Optimizer) -> TrainingState:
        resume = newest_checkpoint(self._config.output_dir, self._model, self._given.sites)
        step = 0 if resume is None else resume.progress.step
        self._processes.agree(step, on=f"the step to go on from (here {step})")
        no_ranges = RangeState.empty(0, decay=self._config.quantization.range_decay)
        if resume is None:
            return TrainingState((), no_ranges, Progress(), self._first_loss_scale(), self._given.target_scale)
        restore(self._model, optimizer, resume)
        self._report(f"going on from step {step}")
        if not self._schedule.is_quantized(step):
            return TrainingState((), no_ranges, resume.progress, resume.loss_scale, resume.target_scale)
        sites = tuple(
            replace(site, smoothing=before.smoothing)
            for site, before in zip(self._given.sites, resume.sites, strict=False)
        )  # no sites before quantization starts
        ranges = resume.ranges.to(self._device)
        return TrainingState(sites, ranges, resume.progress, resume.loss_scale, resume.target_scale)

    def _first_loss_scale(self) -> LossScale:
        options = self._config.execution
        if options.precision != "float16":
            return LossScale()
        return LossScale(options.loss_scale, options.loss_scale_factor, options.loss_scale_window)

    def _train_phase(
        self, optimizer: torch.optim.Optimizer, state: TrainingState, show_step: ShowStep, *, until: int
    ) -> TrainingState:
        if self._given.sites and not state.sites and self._schedule.is_quantized(state.progress.step):
            state = self._calibrated(state)
        weights = prepare_weights(self._model, self._quantized_parameters(state), state.sites)
        parts = Parts(
            engine=self._engine(weights, state),
            optimizer=optimizer,
            weights=weights,
            task=self._config.task,
            train=replace(self._given.train, target_scale=state.target_scale),
            dev=replace(self._given.dev, target_scale=state.target_scale),
            processes=self._processes,
        )
        is_first = self._processes.is_first
        with RunLog(self._config.output_dir, resume_step=state.progress.step) if is_first else nullcontext() as log:
            if log is not None and state.progress.step == 0:
                # of the first step: a run that is killed before it was saved says it again, and not twice
                log.write("source", step=1, **self._given.source.report.values())
            return train_steps(
                parts,
                state,
                self._schedule,
                until=until,
                log=log.write if log is not None else lambda *_, **__: None,
                save=lambda state, *, is_evaluated: self._save(state, optimizer, is_evaluated=is_evaluated),
                show_step=show_step,
            )

    def _calibrated(self, state: TrainingState) -> TrainingState:
        options, optimization = self._config.quantization, self._config.optimization
        self._report(f"quantization starts: {options.calibration_batches} float batches are observed for the ranges")
        sites, ranges = calibrate(
            self._model,
            self._given.sites,
            passes_of_steps(
                self._given.train,
                n_steps=options.calibration_batches,
                rows_per_step=self._schedule.rows_per_step,
                batch_size=optimization.batch_size,
                seed=self._config.seed,
                rank=self._processes.rank,
                n_processes=self._processes.count,
                start=state.progress.step,
            ),
            decay=options.range_decay,
            smoothing=options.smoothing,
            take_largest=self._processes.max_,
        )
        n_smoothed = sum(bool(site.smoothing) for site in sites)
        self._report(f"outliers are smoothed at {n_smoothed} of {len(sites)} activations")
        return replace(state, sites=sites, ranges=ranges.to(self._device))

    def _quantized_parameters(self, state: TrainingState) -> dict[str, WeightGrid]:
        options = self._config.quantization
        if not state.sites:
            return {}
        return quantized_parameters(
            self._model,
            per_channel=options.per_channel,
            saturation_free=options.saturation_free,
            keep_float=self._given.float_layers,
        )

    def _engine(self, weights: TrainableWeights, state: TrainingState) -> Engine:
        objective, execution = self._given.objective, self._config.execution
        if execution.engine == "torch":
            return TorchEngine(self._model, state.sites, weights, objective, precision=execution.precision)
        programs = self._programs(state) if self._processes.is_first else None
        self._processes.wait()  # one process builds, the others then find it in the cache
        return OrtEngine(
            self._programs(state) if programs is None else programs,
            state.sites,
            weights,
            objective,
            precision=execution.precision,
            threads=self._threads,
        )

    def _programs(self, state: TrainingState) -> Programs:
        execution = self._config.execution
        return cached_programs(
            self._model,
            state.sites,
            self._given.objective,
            input_names=self._given.source.input_names,
            gradients=execution.gradients,
            precision=execution.precision,
            cache_dir=execution.cache_dir or user_cache_path("q8bert") / "graphs",
            report=self._report,
        )

    def _save(self, state: TrainingState, optimizer: torch.optim.Optimizer, *, is_evaluated: bool) -> None:
        progress, schedule = state.progress, self._schedule
        if is_evaluated:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
            mark = ""
            if not schedule.counts(progress.step):
                mark = f" (float; quantization starts at step {schedule.quantize_from})"
            elif progress.best_step == progress.step:
                mark = " (best so far)" if progress.has_learned else " (best so far, and no better than chance)"
            epoch = progress.step / schedule.steps_per_epoch
            self._report(f"step {progress.step}/{schedule.n_steps}, epoch {epoch:.4g}, dev: {scores}{mark}")
        self._processes.refuse_drift(self._model.parameters())
        if not self._processes.is_first:
            return
        save_checkpoint(
            self._config.output_dir,
            model=self._model,
            tokenizer=self._given.source.tokenizer,
            optimizer=optimizer,
            ranges=state.ranges.to(torch.device("cpu")),
            sites=state.sites,
            progress=progress,
            loss_scale=state.loss_scale,
            target_scale=state.target_scale,
            input_names=self._given.source.input_names,
            pad_token_id=self._given.source.pad_token_id,
        )
        prune_checkpoints(
            self._config.output_dir, keep=self._config.record.keep_checkpoints, best_step=progress.best_step
        )
