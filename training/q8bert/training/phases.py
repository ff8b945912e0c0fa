"""The phases of a run: float steps as its FP32 twin takes them, then quantized ones; each has programs of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from q8bert.training.loop.averaging import WeightAverage
from q8bert.training.loop.batches import passes_of_steps
from q8bert.training.loop.processes import Processes
from q8bert.training.loop.schedule import Schedule
from q8bert.training.loop.step import TrainingState
from q8bert.training.loop.trainer import Parts, train_steps
from q8bert.training.quantization.calibration import calibrate
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.engine_choice import choose_engine
from q8bert.training.runs.preparation import Preparation
from q8bert.training.runs.run_log import RunLog

__all__ = ["Setting", "train_phases"]


@dataclass(frozen=True)
class Setting:
    """What all phases of a run share.

    Attributes:
        config: The options.
        given: Model and data.
        schedule: When what happens.
        device: Where it is trained.
        processes: Those that train together.
        threads: CPU threads; 0 leaves the choice to the engine.
        report: Called with a sentence at every stage.
        show_step: Called with step, number of steps and loss after each step.
    """

    config: TrainConfig
    given: Preparation
    schedule: Schedule
    device: torch.device
    processes: Processes
    threads: int
    report: Callable[[str], None]
    show_step: Callable[[int, int, float], None]

    @property
    def model(self) -> PreTrainedModel:
        """The model that is trained."""
        return self.given.source.model


def train_phases(
    setting: Setting,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    state: TrainingState,
    *,
    log: RunLog | None,
    save: Callable[..., None],
) -> TrainingState:
    """Train from where a run stands to its end.

    Args:
        setting: What all phases share.
        optimizer: AdamW over the model's parameters.
        average: Mean of the weights over the last steps, where one is wanted.
        state: Where the run stands.
        log: Receives every event; None on a process that writes nothing.
        save: Called with the state, and with ``is_evaluated``, where a checkpoint is due.

    Returns:
        The state after the last step.
    """
    schedule = setting.schedule
    for until in schedule.phases:
        if state.progress.step < until and not schedule.is_over(state.progress):
            if setting.given.sites and not state.sites and schedule.is_quantized(state.progress.step):
                state = _calibrated(setting, state)
            state = train_steps(
                _parts(setting, optimizer, average, state),
                state,
                schedule,
                until=until,
                log=log.write if log is not None else lambda *_, **__: None,
                save=save,
                show_step=setting.show_step,
            )
    return state


def _parts(
    setting: Setting, optimizer: torch.optim.Optimizer, average: WeightAverage | None, state: TrainingState
) -> Parts:
    config, given = setting.config, setting.given
    weights = prepare_weights(setting.model, _quantized_parameters(setting, state), state.sites)
    return Parts(
        engine=choose_engine(
            setting.model,
            state.sites,
            weights,
            given.objective,
            input_names=given.source.input_names,
            execution=config.execution,
            threads=setting.threads,
            processes=setting.processes,
            report=setting.report,
        ),
        optimizer=optimizer,
        weights=weights,
        task=config.task,
        train=replace(given.train, target_scale=state.target_scale),
        dev=replace(given.dev, target_scale=state.target_scale),
        processes=setting.processes,
        average=average,
    )


def _quantized_parameters(setting: Setting, state: TrainingState) -> dict[str, WeightGrid]:
    options = setting.config.quantization
    if not state.sites:
        return {}
    return quantized_parameters(
        setting.model,
        per_channel=options.per_channel,
        saturation_free=options.saturation_free,
        keep_float=setting.given.float_layers,
    )


def _calibrated(setting: Setting, state: TrainingState) -> TrainingState:
    options, optimization = setting.config.quantization, setting.config.optimization
    setting.report(f"quantization starts: {options.calibration_batches} float batches are observed for the ranges")
    sites, ranges = calibrate(
        setting.model,
        setting.given.sites,
        passes_of_steps(
            setting.given.train,
            n_steps=options.calibration_batches,
            rows_per_step=setting.schedule.rows_per_step,
            batch_size=optimization.batch_size,
            seed=setting.config.seed,
            rank=setting.processes.rank,
            n_processes=setting.processes.count,
            start=state.progress.step,
        ),
        decay=options.range_decay,
        smoothing=options.smoothing,
        take_largest=setting.processes.max_,
    )
    n_smoothed = sum(bool(site.smoothing) for site in sites)
    setting.report(f"outliers are smoothed at {n_smoothed} of {len(sites)} activations")
    return replace(state, sites=sites, ranges=ranges.to(setting.device))
