"""What a step of an ensemble is: arrays of several requests in, arrays or an error of its own out for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from q8bert.spec.errors import BundleError, InputError

__all__ = ["Arrays", "Outcome", "Place", "Step", "rows_of_requests"]

Arrays = Mapping[str, NDArray[Any]]
Outcome = Arrays | InputError | BundleError


@dataclass(frozen=True)
class Place:
    """Where a step finds itself.

    Attributes:
        folder: The version's folder.
        parameters: What ``config.pbtxt`` says to the step.
        gpu: Number of the GPU that the instance was given; None for the CPU.
    """

    folder: Path
    parameters: Mapping[str, str]
    gpu: int | None = None


class Step(Protocol):
    """One of the steps, loaded."""

    input_names: Sequence[str]

    def run(self, requests: Sequence[Arrays]) -> list[Outcome]:
        """Answer requests that Triton gives together.

        Args:
            requests: By name the inputs of each, with its rows in front.

        Returns:
            By name the outputs of each, of as many rows, or its error; a request that fails does not fail another.
        """
        ...


def rows_of_requests(counts: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return the numbers of each request's rows, when the rows of all lie one behind the other."""
    ends = np.cumsum(counts, dtype=np.int64)
    return [np.arange(end - count, end) for count, end in zip(counts, ends, strict=True)]
