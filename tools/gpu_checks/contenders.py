"""The ways to train one model that `gpu_check.py` times: the two engines, and plain torch beside them.

A step is forward, backward, clipping, AdamW and, in the engines, ranges and requantizing the weights: the engines take
the very step of a training run. In float16 all of them begin with the same loss scale.

``ort_qat``         quantization-aware, the ONNX Runtime engine
``torch_qat``       quantization-aware, the eager torch engine
``torch_float``     plain Hugging Face and torch under autocast, with its own (fused) attention: no q8bert in it
``torch_compiled``  the same through ``torch.compile``
"""

from typing import Any, Protocol

import torch
from gpu_checks.ahead import program_of
from gpu_checks.models import SIZES, make_classifier
from gpu_checks.setting import Setting

from q8bert.training.engines.engine import Batch, Engine
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.loop.config import EvaluationConfig, OptimizationConfig, RecordConfig
from q8bert.training.loop.feed import StepBatches
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.optimization import adamw
from q8bert.training.loop.processes import Processes
from q8bert.training.loop.progress import Progress
from q8bert.training.loop.schedule import Schedule
from q8bert.training.loop.step import TrainingState, take_step
from q8bert.training.objectives.objective import Classification
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights, quantized_parameters, refresher

__all__ = ["OURS", "RIVALS", "Contender", "make_batch", "make_contender"]

OURS = ("ort_qat", "torch_qat")
RIVALS = ("torch_float", "torch_compiled")
_LOSS_SCALE = 1024.0
_RATE = 1e-5
_MANY = 1000  # steps; more than are taken


class Contender(Protocol):
    """One way to train a model."""

    def step(self, batch: Batch) -> float:
        """Take one optimizer step; returns the loss."""
        ...


def make_contender(kind: str, size: str, precision: str, setting: Setting) -> Contender:
    """Return a contender with a random model of its own on the device."""
    if kind in OURS:
        return _Quantized(kind, size, precision, setting)
    return _Plain(size, precision, setting, is_compiled=kind == "torch_compiled")


def make_batch(size: str, setting: Setting, *, n_rows: int, length: int) -> Batch:
    """Return random rows of full length, on the device."""
    torch.manual_seed(0)
    ids = torch.randint(5, SIZES[size]["vocab_size"], (n_rows, length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    moved = {name: tensor.to(setting.device) for name, tensor in inputs.items()}
    return Batch(moved, {"labels": torch.randint(0, 2, (n_rows,)).to(setting.device)})


class _Quantized:
    """Quantization-aware training by one of q8bert's engines."""

    def __init__(self, kind: str, size: str, precision: str, setting: Setting) -> None:
        model: Any = make_classifier(size)
        sites = find_sites(model)
        model.to(setting.device)
        self._weights = prepare_weights(model, quantized_parameters(model, per_channel=True), sites)
        self._refresh = refresher(self._weights)
        self._optimizer = adamw(self._weights.masters, weight_decay=0.01)
        self._schedule = _schedule()
        ranges = RangeState.empty(len(sites), decay=0.99).to(setting.device)
        scale = LossScale(_LOSS_SCALE, 2.0, _MANY) if precision == "float16" else LossScale()
        first = torch.full((len(sites),), 4.0, device=setting.device)
        self._state = TrainingState(sites, ranges.observe(first), Progress(), scale)
        if kind == "ort_qat":
            self._engine = _ort_engine(size, precision, setting, self._weights, sites)
        else:
            self._engine = TorchEngine(model, sites, self._weights, Classification(), precision=precision)

    def step(self, batch: Batch) -> float:
        self._state, report = take_step(
            self._state,
            StepBatches((batch,), len(batch)),
            engine=self._engine,
            optimizer=self._optimizer,
            weights=self._weights,
            refresh=self._refresh,
            schedule=self._schedule,
            processes=Processes(),
        )
        return report.loss


class _Plain:
    """Float training by torch alone."""

    def __init__(self, size: str, precision: str, setting: Setting, *, is_compiled: bool) -> None:
        # Hugging Face's default attention, which is the faster one
        model: Any = make_classifier(size, attention="sdpa")
        model.to(setting.device).train()
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=_RATE, fused=True)
        self._model = torch.compile(model) if is_compiled else model
        self._device = setting.device
        self._dtype: torch.dtype = getattr(torch, precision)
        self._scaler = torch.amp.GradScaler(
            setting.device.type, init_scale=_LOSS_SCALE, enabled=self._dtype == torch.float16
        )

    def step(self, batch: Batch) -> float:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            loss = self._model(**batch.inputs, labels=batch.targets["labels"]).loss
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return float(loss.detach())


def _schedule() -> Schedule:
    return Schedule(
        n_steps=_MANY, steps_per_epoch=_MANY, rows_per_step=1, quantize_from=0, freeze_ranges_from=_MANY,
        eval_every=_MANY, optimization=OptimizationConfig(learning_rate=_RATE), evaluation=EvaluationConfig(),
        record=RecordConfig(), seed=0,
    )  # fmt: skip


def _ort_engine(
    size: str, precision: str, setting: Setting, weights: TrainableWeights, sites: tuple[Site, ...]
) -> Engine:
    from q8bert.training.engines.ort_engine import OrtEngine

    programs = program_of(size, precision, setting.graphs)
    return OrtEngine(programs, sites, weights, Classification(), precision=precision)
