"""``train(TrainConfig)``: options → a trained run, resumed where one was interrupted.

A quantized run has two phases. Until quantization starts it is its FP32 twin, on the same program. Then calibration
looks at the model as it is by now, decides what is smoothed and where ranges start, and the second phase goes on with
the same optimizer on a program with fake quantization.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from q8bert.spec.checked import checked
from q8bert.training.engines.device import resolve_device
from q8bert.training.loop.batches import passes_of_steps
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.optimization import adamw
from q8bert.training.loop.processes import Processes, default_threads, joined_processes
from q8bert.training.loop.progress import Progress
from q8bert.training.loop.schedule import Schedule, make_schedule
from q8bert.training.loop.step import TrainingState
from q8bert.training.loop.trainer import Parts, train_steps
from q8bert.training.quantization.calibration import calibrate
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters
from q8bert.training.runs.checkpoint import prune_checkpoints, save_checkpoint
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.data_report import write_data_report
from q8bert.training.runs.engine_choice import choose_engine
from q8bert.training.runs.preparation import Preparation, prepare
from q8bert.training.runs.resume import restore
from q8bert.training.runs.run_folder import best_checkpoint, newest_checkpoint, prepare_folder
from q8bert.training.runs.run_lock import run_lock
from q8bert.training.runs.run_log import RunLog
from q8bert.training.runs.run_record import RUN_FILE, RunRecord
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
        CheckpointError: If the output folder holds something else, a damaged checkpoint, or is being trained already.
        InputError: If the data cannot be read.
        ModelError: If the model cannot be found or fully quantized.
        OutputError: If the output folder cannot be written.
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
        with run_lock(config.output_dir, report) if processes.is_first else nullcontext():
            given = prepare(config, device, report)
            schedule = make_schedule(
                given.train,
                optimization=config.optimization,
                evaluation=config.evaluation,
                record=config.record,
                quantization=config.quantization,
                seed=config.seed,
                n_processes=processes.count,
            )
            _agree(config, given, processes, report, overwrite=overwrite)
            return _Run(config, given, schedule, device, processes, threads, report, show_step).train()


def _agree(config: TrainConfig, given: Preparation, processes: Processes, report: Report, *, overwrite: bool) -> None:
    record = RunRecord.of(config, given.inputs, n_processes=processes.count)
    if processes.is_first:  # not before all that can be refused was checked
        prepare_folder(config.output_dir, record, overwrite=overwrite, report=report)
        write_data_report(config.output_dir, given.data)
    processes.wait()
    is_there = (config.output_dir / RUN_FILE).is_file()
    processes.agree(int(is_there), on=f"whether {config.output_dir} holds the run (here {is_there})")
    processes.agree(
        record.number(),
        on="options, data and model",
        remedy="Give every process the same options, the same data and the same model",
    )


@dataclass(frozen=True)
class _Run:
    """One run: what it works with, and how."""

    config: TrainConfig
    given: Preparation
    schedule: Schedule
    device: torch.device
    processes: Processes
    threads: int
    report: Report
    show_step: ShowStep

    @property
    def model(self) -> PreTrainedModel:
        return self.given.source.model

    def train(self) -> RunResult:
        config, schedule = self.config, self.schedule
        masters = dict(self.model.named_parameters())
        for master in masters.values():
            self.processes.take_first_(master.data)  # a new head is drawn otherwise on another kind of CPU
        optimizer = adamw(masters, weight_decay=config.optimization.weight_decay)
        state = self._first_state(optimizer)
        if not schedule.is_over(state.progress):
            is_first = self.processes.is_first
            with RunLog(config.output_dir, resume_step=state.progress.step) if is_first else nullcontext() as log:
                if log is not None and state.progress.step == 0:
                    # of the first step: a run that is killed before it was saved says it again, and not twice
                    log.write("source", step=1, **self.given.source.report.values())
                state = self._train_phases(optimizer, state, log)
        self.processes.wait()  # the last checkpoint is written
        best = best_checkpoint(config.output_dir)
        if self.processes.is_first:  # a kill may have come between the last checkpoint and this
            prune_checkpoints(config.output_dir, keep=config.record.keep_checkpoints, best_step=best.progress.step)
        if not best.progress.has_learned:
            self.report(
                f"warning: {config.task.data.main_metric} never rose above 0 on the dev split: the model is of no use. "
                "Train longer or with another learning rate, and look whether the labels are right"
            )
        return RunResult(
            path=config.output_dir,
            best_step=best.progress.step,
            metrics=best.progress.metrics,
            n_steps=state.progress.step,
            data=self.given.data,
            skipped=self.given.skipped,
            float_layers=self.given.float_layers,
            n_skipped_steps=state.loss_scale.n_skipped,
        )

    def _first_state(self, optimizer: torch.optim.Optimizer) -> TrainingState:
        resume = newest_checkpoint(self.config.output_dir, self.model, self.given.sites)
        step = 0 if resume is None else resume.progress.step
        self.processes.agree(step, on=f"the step to go on from (here {step})")
        no_ranges = RangeState.empty(0, decay=self.config.quantization.range_decay)
        if resume is None:
            return TrainingState((), no_ranges, Progress(), self._first_loss_scale(), self.given.target_scale)
        restore(self.model, optimizer, resume)
        self.report(f"going on from step {step}")
        if not self.schedule.is_quantized(step):
            return TrainingState((), no_ranges, resume.progress, resume.loss_scale, resume.target_scale)
        sites = tuple(
            replace(site, smoothing=before.smoothing, zero_point=before.zero_point)
            for site, before in zip(self.given.sites, resume.sites, strict=False)
        )  # no sites before quantization starts
        ranges = resume.ranges.to(self.device)
        return TrainingState(sites, ranges, resume.progress, resume.loss_scale, resume.target_scale)

    def _first_loss_scale(self) -> LossScale:
        options = self.config.execution
        if options.precision != "float16":
            return LossScale()
        return LossScale(options.loss_scale, options.loss_scale_factor, options.loss_scale_window)

    def _train_phases(
        self, optimizer: torch.optim.Optimizer, state: TrainingState, log: RunLog | None
    ) -> TrainingState:
        for until in (self.schedule.quantize_from, self.schedule.n_steps):
            if state.progress.step < until and not self.schedule.is_over(state.progress):
                state = self._train_phase(optimizer, state, log, until=until)
        return state

    def _train_phase(
        self, optimizer: torch.optim.Optimizer, state: TrainingState, log: RunLog | None, *, until: int
    ) -> TrainingState:
        if self.given.sites and not state.sites and self.schedule.is_quantized(state.progress.step):
            state = self._calibrated(state)
        weights = prepare_weights(self.model, self._quantized_parameters() if state.sites else {}, state.sites)
        parts = Parts(
            engine=choose_engine(
                self.model,
                state.sites,
                weights,
                self.given.objective,
                input_names=self.given.source.input_names,
                execution=self.config.execution,
                threads=self.threads,
                processes=self.processes,
                report=self.report,
            ),
            optimizer=optimizer,
            weights=weights,
            task=self.config.task,
            train=replace(self.given.train, target_scale=state.target_scale),
            dev=replace(self.given.dev, target_scale=state.target_scale),
            processes=self.processes,
        )
        return train_steps(
            parts,
            state,
            self.schedule,
            until=until,
            log=log.write if log is not None else lambda *_, **__: None,
            save=lambda state, *, is_evaluated: self._save(state, optimizer, is_evaluated=is_evaluated),
            show_step=self.show_step,
        )

    def _calibrated(self, state: TrainingState) -> TrainingState:
        options, optimization = self.config.quantization, self.config.optimization
        self.report(f"quantization starts: {options.calibration_batches} float batches are observed for the ranges")
        sites, ranges = calibrate(
            self.model,
            self.given.sites,
            passes_of_steps(
                self.given.train,
                n_steps=options.calibration_batches,
                rows_per_step=self.schedule.rows_per_step,
                batch_size=optimization.batch_size,
                seed=self.config.seed,
                rank=self.processes.rank,
                n_processes=self.processes.count,
                start=state.progress.step,
            ),
            decay=options.range_decay,
            smoothing=options.smoothing,
            zero_points=options.zero_points,
            quantized=self._quantized_parameters(),
            take_largest=self.processes.max_,
            take_sum=self.processes.sum_,
        )
        n_smoothed, n_shifted = (
            sum(map(bool, of)) for of in ((s.smoothing for s in sites), (s.zero_point for s in sites))
        )
        self.report(f"of {len(sites)} activations, {n_smoothed} are smoothed and {n_shifted} have a zero point")
        return replace(state, sites=sites, ranges=ranges.to(self.device))

    def _quantized_parameters(self) -> dict[str, WeightGrid]:
        options = self.config.quantization
        return quantized_parameters(
            self.model,
            per_channel=options.per_channel,
            per_column=options.per_column,
            saturation_free=options.saturation_free,
            keep_float=self.given.float_layers,
        )

    def _save(self, state: TrainingState, optimizer: torch.optim.Optimizer, *, is_evaluated: bool) -> None:
        progress, schedule = state.progress, self.schedule
        if is_evaluated:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
            mark = ""
            if not schedule.counts(progress.step):
                mark = f" (float; quantization starts at step {schedule.quantize_from})"
            elif progress.best_step == progress.step:
                mark = " (best so far)" if progress.has_learned else " (best so far, and no better than chance)"
            epoch = progress.step / schedule.steps_per_epoch
            self.report(f"step {progress.step}/{schedule.n_steps}, epoch {epoch:.4g}, dev: {scores}{mark}")
        self.processes.refuse_drift(self.model.parameters())
        if not self.processes.is_first:
            return
        save_checkpoint(
            self.config.output_dir,
            model=self.model,
            tokenizer=self.given.source.tokenizer,
            optimizer=optimizer,
            ranges=state.ranges.to(torch.device("cpu")),
            sites=state.sites,
            progress=progress,
            loss_scale=state.loss_scale,
            target_scale=state.target_scale,
            input_names=self.given.source.input_names,
            pad_token_id=self.given.source.pad_token_id,
            is_last=schedule.is_over(progress),
        )
        prune_checkpoints(
            self.config.output_dir, keep=self.config.record.keep_checkpoints, best_step=progress.best_step
        )
