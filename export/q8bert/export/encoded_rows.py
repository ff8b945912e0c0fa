"""Rows as token ids, labelled or not: what an exported model is compared on and calibrated with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from q8bert.text.batching import model_inputs, sorted_batches
from q8bert.text.encoded import Encoded
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale

__all__ = ["EncodedRows"]


@dataclass(frozen=True)
class EncodedRows:
    """Rows ready to be batched.

    Attributes:
        encoded: Token ids of every row.
        labels: Label ids, or scores in the user's units; None where rows have none.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.
        target_scale: Between scores and what the model computes.
    """

    encoded: Encoded
    labels: tuple[int | float, ...] | None
    input_names: tuple[str, ...]
    pad_token_id: int
    target_scale: TargetScale = UNSCALED

    def __len__(self) -> int:
        return len(self.encoded)

    def select(self, rows: NDArray[np.int64]) -> "EncodedRows":
        """Return some of the rows, in the order given and numbered anew."""
        labels = None if self.labels is None else tuple(self.labels[row] for row in rows.tolist())
        return replace(self, encoded=self.encoded.select(rows.tolist()), labels=labels)

    def spread(self, n_rows: int | None) -> NDArray[np.int64]:
        """Return numbers of so many rows, evenly over all: files are often sorted by label or by source.

        Args:
            n_rows: How many; None for all.

        Returns:
            Int64, ascending; all rows where there are not more.
        """
        n_wanted = len(self) if n_rows is None else min(n_rows, len(self))
        return np.arange(n_wanted, dtype=np.int64) * len(self) // max(1, n_wanted)

    def batches(self, batch_size: int) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        """Yield row numbers and inputs of every batch, longest rows first.

        Args:
            batch_size: Rows a batch.

        Yields:
            Row numbers, and int64 ``(batch, seq)`` by name.
        """
        for rows in sorted_batches(self.encoded.lengths, batch_size):
            yield rows, self.inputs(rows)

    def inputs(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the model's inputs of some rows, int64 ``(batch, seq)`` by name, padded to the longest of them."""
        inputs: Mapping[str, NDArray[np.int64]] = model_inputs(
            self.encoded, rows, self.input_names, pad_token_id=self.pad_token_id
        )
        return {name: torch.from_numpy(array) for name, array in inputs.items()}
