"""The ONNX Runtime engine: forward and backward in one session, on memory that torch owns.

Weights are read from the effective buffers and gradients written into the gradient buffers through their addresses:
nothing is copied and ``optimizer.step()`` finds its gradients in place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from q8bert.spec.environment import installed_ort_build
from q8bert.spec.errors import ProviderError
from q8bert.training.engine import Batch, StepResult
from q8bert.training.gradient_graph import append_gradients, evaluation_graph, export_forward
from q8bert.training.sites import Site
from q8bert.training.weights import TrainableWeights

__all__ = ["OrtEngine", "check_training_build"]

_PROVIDER = "CPUExecutionProvider"
_NUMPY_TYPES = {torch.float32: np.float32, torch.int64: np.int64}


def check_training_build() -> None:
    """Check that the installed ONNX Runtime computes gradients.

    Raises:
        ProviderError: If it is an inference-only build.
    """
    build = installed_ort_build()
    if not build.can_train:
        raise ProviderError(
            f"--engine ort needs a training build of ONNX Runtime, but {build.distribution} {build.version} only "
            f'runs models. Run: pip uninstall -y {build.distribution} && pip install "q8bert[train]" '
            "(or train with --engine torch)"
        )


class OrtEngine:
    """ONNX Runtime Training on the CPU.

    Args:
        model: The float classifier; exported once, here.
        sites: Where activations are quantized; empty for float training.
        weights: Tensors to read and gradients to write; their addresses must not change.
        input_names: Inputs that the model takes.
        n_outputs: Width of the logits.
        regression: Whether labels are scores.
        threads: CPU threads; 0 leaves the choice to ONNX Runtime.

    Raises:
        ProviderError: If the installed ONNX Runtime cannot train.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        weights: TrainableWeights,
        *,
        input_names: Sequence[str],
        n_outputs: int,
        regression: bool,
        threads: int = 0,
    ) -> None:
        check_training_build()
        self._n_outputs = n_outputs
        self._weights = weights
        forward = export_forward(model, sites, input_names=input_names, regression=regression)
        self._training = _Session(append_gradients(forward).SerializeToString(), threads)
        self._evaluation = _Session(evaluation_graph(forward).SerializeToString(), threads)
        self._loss = torch.zeros(())
        self._observations = torch.zeros(len(sites))
        for session in (self._training, self._evaluation):
            for name, tensor in weights.effective.items():
                session.bind_input(name, tensor)
        self._training.bind_output("loss", self._loss)
        for name, gradient in weights.gradients.items():
            self._training.bind_output(f"{name}_grad", gradient)
        if sites:
            self._training.bind_output("observations", self._observations)

    def step(self, batch: Batch, amax: Tensor | None, *, seed: int) -> StepResult:
        """Run forward and backward; see :class:`q8bert.training.engine.Engine`."""
        logits = torch.empty(len(batch.labels), self._n_outputs)
        inputs = {**batch.inputs, "labels": batch.labels}
        # Each Dropout node draws from a generator seeded by the next integer; only large random seeds keep
        # the masks of neighbouring nodes independent. One seed a run makes a step repeatable.
        ort.set_seed(seed)
        self._training.run(inputs if amax is None else {**inputs, "amax": amax}, logits)
        self._weights.clear_padding_gradients()
        return StepResult(self._loss.item(), logits, self._observations.clone())

    def logits(self, inputs: Mapping[str, Tensor], amax: Tensor | None) -> Tensor:
        """Run forward in evaluation mode; see :class:`q8bert.training.engine.Engine`."""
        logits = torch.empty(len(inputs["input_ids"]), self._n_outputs)
        self._evaluation.run(dict(inputs) if amax is None else {**inputs, "amax": amax}, logits)
        return logits


class _Session:
    """An InferenceSession that reads and writes torch tensors by address."""

    def __init__(self, model: bytes, threads: int) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(model, options, providers=[_PROVIDER])
        self._inputs = {value.name for value in session.get_inputs()}
        self._outputs = {value.name for value in session.get_outputs()}
        self._session = session
        self._binding: Any = session.io_binding()

    def bind_input(self, name: str, tensor: Tensor) -> None:
        if name in self._inputs:
            self._binding.bind_input(name, "cpu", 0, *_layout(tensor))

    def bind_output(self, name: str, tensor: Tensor) -> None:
        if name in self._outputs:
            self._binding.bind_output(name, "cpu", 0, *_layout(tensor))

    def run(self, inputs: Mapping[str, Tensor], logits: Tensor) -> None:
        # the binding holds addresses only; `kept` holds the memory until the run is over
        kept = [tensor.contiguous() for tensor in inputs.values()]
        for name, tensor in zip(inputs, kept, strict=True):
            self.bind_input(name, tensor)
        self.bind_output("logits", logits)
        self._session.run_with_iobinding(self._binding)


def _layout(tensor: Tensor) -> tuple[Any, list[int], int]:
    if not tensor.is_contiguous():
        raise ValueError("only contiguous tensors can be bound by address")
    return _NUMPY_TYPES[tensor.dtype], list(tensor.shape), tensor.data_ptr()
