"""The processes that train together, one to a device: what ``torchrun`` started, or this one alone.

Every process holds the same weights, takes its share of every step's rows, and sums gradients with the others, so all
of them take the same step. Only the first one (rank 0) writes files and speaks.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from q8bert.spec.errors import ConfigError, JobError

__all__ = ["Processes", "joined_processes"]

# how long a process waits for the others before it gives the job up; the first one may be writing a checkpoint
_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Processes:
    """One process among those of a job.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.count > 1:
            with _together():
                dist.all_reduce(tensor, op=dist.ReduceOp.SUM)

    def max_(self, tensor: Tensor) -> None:
        """Replace a tensor by its elementwise maximum over all processes."""
        if self.count > 1:
            with _together():
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def take_first_(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the first process."""
        if self.count > 1:
            with _together():
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.count > 1:
            with _together():
                dist.barrier()

    def agree(
        self,
        number: int,
        *,
        on: str,
        remedy: str = "With several machines, --output-dir must be a folder that all share",
    ) -> None:
        """Check that all processes have the same number.

        Args:
            number: This process's.
            on: What it is, for the message.
            remedy: What to do where they differ.

        Raises:
            JobError: If they differ, on every process alike.
        """
        ends = torch.tensor([number, -number])
        self.max_(ends)
        if ends[0] != -ends[1]:
            raise JobError(f"the processes do not agree on {on}. {remedy}")

    def refuse_drift(self, tensors: Iterable[Tensor]) -> None:
        """Check that all processes hold the same numbers, bit for bit.

        Args:
            tensors: Float32 tensors of this process, in the same order everywhere.

        Raises:
            JobError: If they differ, on every process alike.
        """
        if self.count > 1:
            bits = sum(int(tensor.detach().view(torch.int32).sum(dtype=torch.int64)) for tensor in tensors)
            self.agree(
                bits % 2**62,
                on="the weights: they have drifted apart, so this checkpoint is not written",
                remedy="The same command goes on from the last checkpoint. If it happens again, a device or a library "
                "of one machine computes otherwise than the others",
            )


@contextmanager
def _together() -> Iterator[None]:
    """Say in one sentence that another process is gone, rather than show how the connection to it broke."""
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises, whatever the backend
        raise JobError(
            f"another process of this job ended or does not answer ({str(error).splitlines()[0][:120]}); its own "
            "message says why. The same command goes on from the last checkpoint"
        ) from error


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """Join the job that ``torchrun`` started, if it did.

    Args:
        device: Where this process trains; CUDA devices talk by NCCL, CPUs by gloo.

    Yields:
        This process among the others; alone when ``torchrun`` was not used.

    Raises:
        ConfigError: If the variables that ``torchrun`` sets are there in part.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError([f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set; start with torchrun"])
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(device)
    # scores are put together on the CPU, gradients on the devices
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
