"""The ONNX Runtime engine: forward and backward in one session, on memory that torch owns.

Weights are read from the effective buffers and gradients written into the gradient buffers through their addresses:
nothing is copied and ``optimizer.step()`` finds its gradients in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from q8bert.spec.errors import ProviderError
from q8bert.training.engines.device import CUDA_PROVIDER
from q8bert.training.engines.dropout import DropoutMasks, read_dropout_inputs
from q8bert.training.engines.engine import Batch, StepResult
from q8bert.training.engines.programs import Programs
from q8bert.training.quantization.quantized_model import smoothing_inputs
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["MakePrograms", "OrtEngine"]

_NUMPY_TYPES = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}


class MakePrograms(Protocol):
    """Gives the programs of the model with quantized activations or with float ones."""

    def __call__(self, *, quantize: bool) -> Programs:
        """Return both programs."""
        ...


class OrtEngine:
    """ONNX Runtime Training, on the device where the weights are.

    Args:
        make_programs: Gives the model's programs; called when they are first needed.
        weights: Tensors to read and gradients to write; their addresses must not change.
        sites: Activations that the programs observe; empty for a float model.
        n_outputs: Width of the logits.
        precision: ``float32`` or ``float16``, as the programs were built.
        threads: CPU threads; 0 leaves the choice to ONNX Runtime.
    """

    def __init__(
        self,
        make_programs: MakePrograms,
        weights: TrainableWeights,
        *,
        sites: Sequence[Site],
        n_outputs: int,
        precision: str = "float32",
        threads: int = 0,
    ) -> None:
        self.n_sites = len(sites)
        self._make_programs = make_programs
        self._weights = weights
        self._device = weights.gradient.device
        self._n_outputs = n_outputs
        self._threads = threads
        self._loss = torch.zeros((), device=self._device)
        self._observations = torch.zeros(len(sites), device=self._device)
        self._sessions: _Sessions | None = None
        self._dtype: torch.dtype = getattr(torch, precision)
        # what the programs read and write: the weights' own buffers, or copies in the programs' precision
        self._read = {name: tensor.to(self._dtype) for name, tensor in weights.effective.items()}
        self._written = {name: tensor.to(self._dtype) for name, tensor in weights.gradients.items()}
        self._smoothing = {name: factors.to(self._device) for name, factors in smoothing_inputs(sites).items()}

    def step(self, batch: Batch, amax: Tensor | None, *, seed: int, loss_scale: float = 1.0) -> StepResult:
        """Run forward and backward; see :class:`q8bert.training.engines.engine.Engine`."""
        sessions = self._ready(amax)
        logits = torch.empty(len(batch.labels), self._n_outputs, device=self._device)
        batch_size, length = batch.inputs["input_ids"].shape
        inputs = {
            **batch.inputs,
            "labels": batch.labels,
            "loss_scale": torch.tensor(loss_scale),
            **sessions.dropout.draw(batch=batch_size, seq=length, seed=seed),
        }
        self._copy_weights()
        sessions.training.run(inputs if amax is None else {**inputs, "amax": amax}, logits)
        for name in sessions.tables:
            ids, rows = sessions.training.output(f"{name}_ids"), sessions.training.output(f"{name}_rows_grad")
            gradient = self._weights.gradients[name].zero_()
            gradient.index_add_(0, ids.flatten(), rows.flatten(0, -2).to(gradient.dtype))
        if self._dtype != torch.float32:
            for name in self._written.keys() - set(sessions.tables):
                self._weights.gradients[name].copy_(self._written[name])
        self._weights.finish_gradients()
        return StepResult(self._loss.item(), logits, self._observations.clone())

    def logits(self, inputs: Mapping[str, Tensor], amax: Tensor | None) -> Tensor:
        """Run forward in evaluation mode; see :class:`q8bert.training.engines.engine.Engine`."""
        logits = torch.empty(len(inputs["input_ids"]), self._n_outputs, device=self._device)
        sessions = self._ready(amax)
        self._copy_weights()
        sessions.evaluation.run(dict(inputs) if amax is None else {**inputs, "amax": amax}, logits)
        return logits

    def _copy_weights(self) -> None:
        if self._dtype != torch.float32:
            for name, tensor in self._weights.effective.items():
                self._read[name].copy_(tensor)

    def _ready(self, amax: Tensor | None) -> "_Sessions":
        quantize = amax is not None
        if self._sessions is None or self._sessions.quantize != quantize:
            self._sessions = None  # frees the memory of the other ones first
            self._sessions = self._open(quantize=quantize)
        return self._sessions

    def _open(self, *, quantize: bool) -> "_Sessions":
        programs = self._make_programs(quantize=quantize)
        training = _Session(programs.training, self._device, self._threads)
        evaluation = _Session(programs.evaluation, self._device, self._threads)
        for session in (training, evaluation):
            for name, tensor in (self._read | self._smoothing).items():
                session.bind_input(name, tensor)
        training.bind_output("loss", self._loss)
        training.bind_output("observations", self._observations)
        for name, gradient in self._written.items():
            training.bind_output(f"{name}_grad", gradient)
        tables = tuple(name for name in self._weights.gradients if f"{name}_rows_grad" in training.outputs)
        for name in tables:
            training.leave_output_to_ort(f"{name}_ids")
            training.leave_output_to_ort(f"{name}_rows_grad")
        dropout = DropoutMasks(read_dropout_inputs(training.metadata), self._device, self._dtype)
        return _Sessions(quantize, training, evaluation, tables, dropout)


@dataclass(frozen=True)
class _Sessions:
    quantize: bool
    training: "_Session"
    evaluation: "_Session"
    tables: tuple[str, ...]
    dropout: DropoutMasks


class _Session:
    """An InferenceSession that reads and writes torch tensors by address."""

    def __init__(self, model: bytes, device: torch.device, threads: int) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # nodes as soon as their inputs are there, not level by level: inputs are still in the cache
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        self._device = device
        session = ort.InferenceSession(model, options, providers=[_provider(device)])
        if device.type == "cuda" and CUDA_PROVIDER not in session.get_providers():
            raise ProviderError(
                f"ONNX Runtime {ort.__version__} could not start {CUDA_PROVIDER} on {device}; `q8bert doctor` says "
                "which library is missing"
            )
        self._inputs = {value.name for value in session.get_inputs()}
        self.outputs = {value.name for value in session.get_outputs()}
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self._session = session
        self._binding: Any = session.io_binding()
        self._order: list[str] = []
        self._left_to_ort: list[str] = []

    def bind_input(self, name: str, tensor: Tensor) -> None:
        if name in self._inputs:
            self._binding.bind_input(name, *_layout(tensor))

    def bind_output(self, name: str, tensor: Tensor) -> None:
        if name in self.outputs:
            self._binding.bind_output(name, *_layout(tensor))
            self._note(name)

    def leave_output_to_ort(self, name: str) -> None:
        """Let ONNX Runtime allocate an output whose shape depends on the batch, anew in every run."""
        self._left_to_ort.append(name)

    def output(self, name: str) -> Tensor:
        """Return such an output of the last run, without a copy."""
        value = self._binding.get_outputs()[self._order.index(name)]
        tensor: Tensor = from_dlpack(value._ortvalue.to_dlpack())  # the wrapper itself has no such method
        return tensor

    def _note(self, name: str) -> None:
        if name not in self._order:  # bound again, an output keeps its place
            self._order.append(name)

    def run(self, inputs: Mapping[str, Tensor], logits: Tensor) -> None:
        # the binding holds addresses only; `kept` holds the memory until the run is over
        kept = [tensor.to(self._device).contiguous() for tensor in inputs.values()]
        for name, tensor in zip(inputs, kept, strict=True):
            self.bind_input(name, tensor)
        self.bind_output("logits", logits)
        for name in self._left_to_ort:
            self._binding.bind_output(name, self._device.type, self._device.index or 0)
            self._note(name)
        if self._device.type == "cuda":
            # torch and ONNX Runtime work on streams of their own: the weights and inputs must have arrived
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(self._binding)  # waits for its own stream before it returns


def _provider(device: torch.device) -> Any:
    if device.type == "cuda":
        # float32 means float32: ONNX Runtime would take TF32 by itself, torch does not
        return (CUDA_PROVIDER, {"device_id": str(device.index), "use_tf32": "0"})
    return "CPUExecutionProvider"


def _layout(tensor: Tensor) -> tuple[str, int, Any, list[int], int]:
    if not tensor.is_contiguous():
        raise ValueError("only contiguous tensors can be bound by address")
    device = tensor.device
    return device.type, device.index or 0, _NUMPY_TYPES[tensor.dtype], list(tensor.shape), tensor.data_ptr()
