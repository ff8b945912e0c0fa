"""The plain torch engine: eager forward and autograd. The reference for the other one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from q8bert.training.engines.engine import Batch, StepResult
from q8bert.training.objectives.objective import Objective
from q8bert.training.quantization.fake_quantize import fake_quantize
from q8bert.training.quantization.quantized_model import ActivationQuantizer, QuantizedModel
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["TorchEngine", "quantize_activation"]


def quantize_activation(x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:  # noqa: ARG001 - every quantizer is told the site
    """Fake-quantize one activation in torch, as an ``ActivationQuantizer``."""
    # in float32 whatever the precision of x: float16 cannot tell the borders between codes apart
    return fake_quantize(x.float(), scale, zero_point).to(x.dtype)


class TorchEngine:
    """Eager torch, on the device where the weights are.

    Args:
        model: The float model.
        sites: Where activations are quantized; empty for float training.
        weights: Tensors to read and gradients to write.
        objective: Which outputs are read, and the loss.
        precision: ``float32``, or what torch's autocast runs the large products in.
        quantize: How activations are quantized.
        learns_ranges: Whether a step gives the gradient of the ranges too.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        weights: TrainableWeights,
        objective: Objective,
        *,
        precision: str = "float32",
        quantize: ActivationQuantizer = quantize_activation,
        learns_ranges: bool = False,
    ) -> None:
        self._model = QuantizedModel(model, sites, quantize, outputs=objective.outputs)
        self._weights = weights
        self._objective = objective
        self._device = weights.gradient.device
        self._dtype: torch.dtype = getattr(torch, precision)
        self.n_sites = len(sites)
        self._learns_ranges = learns_ranges
        self._leaves = {f"model.{name}": tensor.detach().requires_grad_() for name, tensor in weights.effective.items()}
        for name, gradient in weights.gradients.items():
            # autograd adds into an existing .grad in place, so gradients land in the shared memory
            self._leaves[f"model.{name}"].grad = gradient

    def step(self, batch: Batch, amax: Tensor | None, *, seed: int, loss_scale: float = 1.0) -> StepResult:
        """Run forward and backward; see :class:`q8bert.training.engines.engine.Engine`."""
        self._weights.gradient.zero_()
        self._model.train()
        if amax is not None and self._learns_ranges:
            amax = amax.detach().to(self._device).requires_grad_()
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed)
            outputs, observations = self._run(batch.inputs, amax, observe=True)
        targets = {name: tensor.to(self._device) for name, tensor in batch.targets.items()}
        loss = self._objective.loss(outputs, targets)
        (loss * loss_scale).backward()  # type: ignore[no-untyped-call]
        self._weights.finish_gradients()
        learned = [] if amax is None or amax.grad is None else [amax.grad]
        return StepResult(
            loss.detach(), {name: value.detach() for name, value in outputs.items()}, observations, *learned
        )

    def outputs(self, inputs: Mapping[str, Tensor], amax: Tensor | None) -> dict[str, Tensor]:
        """Run forward in evaluation mode; see :class:`q8bert.training.engines.engine.Engine`."""
        self._model.eval()
        with torch.no_grad():
            return self._run(inputs, amax, observe=False)[0]

    def _run(
        self, inputs: Mapping[str, Tensor], amax: Tensor | None, *, observe: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        moved = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        amax = None if amax is None else amax.to(self._device)
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            outputs, observations = functional_call(self._model, self._leaves, (moved, amax), {"observe": observe})
        return {name: value.float() for name, value in outputs.items()}, observations.float()
