"""The first ranges, from float batches, before anything is quantized."""

import itertools

import torch

from q8bert.training.batches import TokenizedSplit, shared_out
from q8bert.training.processes import Processes
from q8bert.training.quantized_model import QuantizedModel
from q8bert.training.ranges import RangeState

__all__ = ["calibrate"]


def calibrate(
    model: QuantizedModel,
    split: TokenizedSplit,
    *,
    rows_per_step: int,
    batch_size: int,
    n_batches: int,
    seed: int,
    decay: float,
    n_sites: int,
    processes: Processes,
) -> RangeState:
    """Observe float batches before anything is quantized, so that the first ranges mean something.

    Ranges seen through other, still meaningless ranges would be wrong in every deeper layer.

    Args:
        model: The float model with its sites.
        split: Training rows.
        rows_per_step: Rows whose largest values make one observation, as in training.
        batch_size: Rows a forward pass.
        n_batches: Observations; fewer when an epoch has fewer steps.
        seed: Seed of the run.
        decay: Decay of the moving average.
        n_sites: Number of sites.
        processes: Those that share the work.

    Returns:
        The state after these observations, the same on every process.
    """
    state = RangeState.empty(n_sites, decay=decay)
    device = next(model.parameters()).device
    model.eval()
    n_batches = min(n_batches, split.steps_per_epoch(rows_per_step))
    for rows in itertools.islice(split.training_steps(rows_per_step, seed=seed, start=0), n_batches):
        largest = torch.zeros(n_sites, device=device)
        for part in shared_out(rows, batch_size, rank=processes.rank, n_processes=processes.count):
            inputs = {name: tensor.to(device) for name, tensor in split.batch(part).inputs.items()}
            with torch.no_grad():
                largest = torch.maximum(largest, model(**inputs, observe=True)[1])
        processes.max_(largest)
        state = state.observe(largest.cpu())
    return state
