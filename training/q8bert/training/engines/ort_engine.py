"""The ONNX Runtime engine: forward and backward in one session, on memory that torch owns.

Weights are read from the effective buffers and gradients written into the gradient buffers through their addresses:
nothing is copied and ``optimizer.step()`` finds its gradients in place.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from q8bert.training.engines.engine import Batch, StepResult
from q8bert.training.engines.ort_session import BoundSession
from q8bert.training.objectives.objective import Objective
from q8bert.training.programs.cache import Programs
from q8bert.training.programs.dropout import DropoutMasks, read_dropout_inputs
from q8bert.training.quantization.quantized_model import site_inputs
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["OrtEngine"]


class OrtEngine:
    """ONNX Runtime, on the device where the weights are.

    Args:
        programs: The model's programs; with gradients of the ranges where these are learned.
        sites: Activations that the programs quantize and observe; empty for a float model.
        weights: Tensors to read and gradients to write; their addresses must not change.
        objective: What the programs were built for.
        precision: ``float32``, ``float16`` or ``bfloat16``, as the programs were built.
        threads: CPU threads; 0 leaves the choice to ONNX Runtime.
    """

    def __init__(
        self,
        programs: Programs,
        sites: Sequence[Site],
        weights: TrainableWeights,
        objective: Objective,
        *,
        precision: str = "float32",
        threads: int = 0,
    ) -> None:
        self.n_sites = len(sites)
        self._weights = weights
        self._objective = objective
        self._device = weights.gradient.device
        self._dtype: torch.dtype = getattr(torch, precision)
        # what the programs read and write: the weights' own buffers, or copies in the programs' precision
        self._read = {name: tensor.to(self._dtype) for name, tensor in weights.effective.items()}
        self._written = {name: tensor.to(self._dtype) for name, tensor in weights.gradients.items()}
        self._of_sites = {name: values.to(self._device) for name, values in site_inputs(sites).items()}
        self._training = self._bound(programs.training, threads)
        self._evaluation = self._bound(programs.evaluation, threads)
        for name, gradient in self._written.items():
            self._training.bind_output(f"{name}_grad", gradient)
        self._learned = [name for name in ("amax_grad",) if name in self._training.outputs]
        self._tables = tuple(name for name in self._written if f"{name}_rows_grad" in self._training.outputs)
        self._dropout = DropoutMasks(read_dropout_inputs(self._training.metadata), self._device, self._dtype)

    def step(self, batch: Batch, amax: Tensor | None, *, seed: int, loss_scale: float = 1.0) -> StepResult:
        """Run forward and backward; see :class:`q8bert.training.engines.engine.Engine`."""
        sizes = _sizes(batch.inputs)
        masks = self._dropout.draw(**sizes, seed=seed)
        scale = torch.tensor(loss_scale, device=self._device)
        inputs = {**batch.inputs, **batch.targets, "loss_scale": scale, **masks}
        wanted = ["loss", *self._objective.outputs, *(["observations"] if self.n_sites else [])]
        wanted += self._learned
        wanted += [f"{name}_{what}" for name in self._tables for what in ("ids", "rows_grad")]
        self._copy_weights()
        results = self._training.run(inputs if amax is None else {**inputs, "amax": amax}, wanted, sizes)
        self._collect_gradients(results)
        observations = results.get("observations", torch.zeros(0, device=self._device))
        outputs = {name: results[name] for name in self._objective.outputs}
        return StepResult(results["loss"], outputs, observations, *(results[name] for name in self._learned))

    def outputs(self, inputs: Mapping[str, Tensor], amax: Tensor | None) -> dict[str, Tensor]:
        """Run forward in evaluation mode; see :class:`q8bert.training.engines.engine.Engine`."""
        self._copy_weights()
        given = dict(inputs) if amax is None else {**inputs, "amax": amax}
        return self._evaluation.run(given, self._objective.outputs, _sizes(inputs))

    def _bound(self, program: bytes, threads: int) -> BoundSession:
        session = BoundSession(program, self._device, threads)
        for name, tensor in (self._read | self._of_sites).items():
            session.bind_input(name, tensor)
        return session

    def _copy_weights(self) -> None:
        if self._dtype != torch.float32:
            for name, tensor in self._weights.effective.items():
                self._read[name].copy_(tensor)

    def _collect_gradients(self, results: Mapping[str, Tensor]) -> None:
        """Bring what the program gave into the weights' gradients: rows of tables, and what is in half precision."""
        gradients = self._weights.gradients
        for name in self._tables:
            ids, rows = results[f"{name}_ids"], results[f"{name}_rows_grad"]
            gradient = gradients[name].zero_()
            gradient.index_add_(0, ids.flatten(), rows.flatten(0, -2).to(gradient.dtype))
        if self._dtype != torch.float32:
            for name in self._written.keys() - set(self._tables):
                gradients[name].copy_(self._written[name])
        self._weights.finish_gradients()


def _sizes(inputs: Mapping[str, Tensor]) -> dict[str, int]:
    batch, seq = inputs["input_ids"].shape
    return {"batch": batch, "seq": seq}
