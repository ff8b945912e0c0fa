"""The gradient of one optimizer step: the mean over all its rows, whoever ran them and in how many passes.

A step's rows are shared out to the processes, and each process's rows to forward passes of at most ``batch_size``.
Each pass gives the mean gradient of its own rows; weighted by how many rows those are, the sum is the gradient of
the mean loss over all rows of the step, as if one pass had run them together.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from q8bert.training.engines.engine import Batch, Engine, StepResult
from q8bert.training.loop.processes import Processes
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["gradient_divisor", "mean_gradients", "step_seed"]

_MAX_SEED = 2**31 - 1


def step_seed(seed: int, *, step: int, rank: int, part: int) -> int:
    """Return the seed of every random draw of one forward pass.

    Args:
        seed: Seed of the run.
        step: Optimizer step, from 0.
        rank: Number of the process.
        part: Number of the forward pass within the step, on this process.

    Returns:
        A number below 2**31.
    """
    return int(np.random.default_rng((seed, step, rank, part)).integers(_MAX_SEED))


def mean_gradients(
    engine: Engine,
    weights: TrainableWeights,
    batches: Sequence[Batch],
    *,
    n_rows: int,
    amax: Tensor | None,
    seeds: Sequence[int],
    processes: Processes,
    loss_scale: float = 1.0,
    learns_ranges: bool = False,
) -> StepResult:
    """Run a step's forward and backward passes and leave the mean gradient in the weights' gradient buffers.

    Args:
        engine: Runs each pass.
        weights: Owner of the gradient buffers.
        batches: This process's share of the step; may be empty on the last step of an epoch.
        n_rows: Rows of the step over all processes.
        amax: Ranges, or None while nothing is quantized.
        seeds: One for each batch.
        processes: Those that share the step.
        loss_scale: What the loss is multiplied by on the way, and so the gradients are.
        learns_ranges: Whether the engine gives the gradient of the ranges.

    Returns:
        Mean loss, largest observations and mean gradient of the ranges over all rows; outputs of this process's last
        pass.
    """
    if processes.count == 1 and len(batches) == 1:
        return engine.step(batches[0], amax, seed=seeds[0], loss_scale=loss_scale)
    gradient = torch.zeros_like(weights.gradient)
    loss = torch.zeros((), dtype=torch.float64, device=gradient.device)
    observations = torch.zeros(engine.n_sites, device=gradient.device)
    range_gradient = torch.zeros(engine.n_sites if learns_ranges else 0, device=gradient.device)
    outputs: Mapping[str, Tensor] = {}
    for batch, seed in zip(batches, seeds, strict=True):
        result = engine.step(batch, amax, seed=seed, loss_scale=loss_scale)
        share = len(batch) / n_rows
        gradient.add_(weights.gradient, alpha=share)
        loss += share * result.loss
        observations = torch.maximum(observations, result.observations)
        if learns_ranges:
            range_gradient.add_(result.range_gradient, alpha=share)
        outputs = result.outputs
    weights.gradient.copy_(gradient)
    processes.sum_(weights.gradient)
    processes.sum_(loss)
    processes.max_(observations)
    if learns_ranges:
        processes.sum_(range_gradient)
    return StepResult(loss, outputs, observations, range_gradient)


def gradient_divisor(norm: Tensor, *, max_norm: float, loss_scale: float) -> Tensor:
    """Return what gradients are divided by, so that they lose the loss's scale and their norm is at most ``max_norm``.

    Fused AdamW divides as it reads them, so they are not read and written once more for it.

    Args:
        norm: Global norm of the gradients, without the loss's scale.
        max_norm: Largest norm allowed.
        loss_scale: What the gradients are multiplied by.

    Returns:
        Float32 scalar on the device of ``norm``.
    """
    return torch.where(norm > max_norm, (norm + 1e-6) / max_norm, torch.ones_like(norm)) * loss_scale
