"""On how many CPU threads torch and ONNX Runtime compute."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from q8bert.machine.cores import available_cores

__all__ = ["torch_threads"]


@contextmanager
def torch_threads(asked: int) -> Iterator[int]:
    """Have torch compute on as many CPU threads as were asked for, until the context ends.

    Args:
        asked: Their number; 0 for torch's own choice, but no more than the cores that this process may use: torch
            counts those of a container's host. Processes of one ``torchrun`` share them evenly.

    Yields:
        The number, for ONNX Runtime too.
    """
    before = torch.get_num_threads()
    threads = asked or _share(before)
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def _share(of_torch: int) -> int:
    n_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = available_cores(n_processes)
    # torchrun tells torch to take one thread in each process, whatever the machine has
    return cores if n_processes > 1 else min(of_torch, cores)
