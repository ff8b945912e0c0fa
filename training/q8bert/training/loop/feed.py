"""Batches of a training run, one optimizer step after the other; copied ahead to a GPU while it computes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from q8bert.training.engines.engine import Batch
from q8bert.training.loop.batches import TokenizedSplit, shared_out
from q8bert.training.loop.processes import Processes

__all__ = ["StepBatches", "training_feed"]

_GPU_MULTIPLE = 8  # lengths that the tensor cores of GPUs take without padding of their own


@dataclass(frozen=True)
class StepBatches:
    """What one process runs in one optimizer step.

    Attributes:
        batches: A forward pass each; may be empty on the last step of an epoch.
        n_rows: Rows of the step over all processes.
    """

    batches: tuple[Batch, ...]
    n_rows: int


def training_feed(
    split: TokenizedSplit,
    *,
    rows_per_step: int,
    batch_size: int,
    seed: int,
    start: int,
    processes: Processes,
    device: torch.device,
) -> Iterator[StepBatches]:
    """Yield what this process runs, step after step, without end.

    Args:
        split: Training rows.
        rows_per_step: Rows of a step, over all processes and forward passes.
        batch_size: Rows a forward pass, at most.
        seed: Seed of the run.
        start: Step to begin with.
        processes: Those that share the rows.
        device: Where batches are wanted. To a GPU, those of the next step are on their way before they are asked for.

    Yields:
        Batches on the device.
    """
    multiple = _GPU_MULTIPLE if device.type == "cuda" else 1
    steps = (
        StepBatches(
            tuple(
                split.batch(part, multiple=multiple)
                for part in shared_out(rows, batch_size, rank=processes.rank, n_processes=processes.count)
            ),
            len(rows),
        )
        for rows in split.training_steps(rows_per_step, seed=seed, start=start)
    )
    if device.type != "cuda":
        yield from steps
        return
    ahead = _moved(next(steps), device)
    for step in steps:
        ready, ahead = ahead, _moved(step, device)
        yield ready


def _moved(step: StepBatches, device: torch.device) -> StepBatches:
    def move(tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(device, non_blocking=True)

    return replace(
        step,
        batches=tuple(
            Batch(
                {name: move(tensor) for name, tensor in batch.inputs.items()},
                {name: move(tensor) for name, tensor in batch.targets.items()},
            )
            for batch in step.batches
        ),
    )
