"""Rows of a split as tensors: tokenized once, batched by length every epoch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from q8bert.glue.batching import model_inputs, shuffled_batches, sorted_batches
from q8bert.glue.examples import Split
from q8bert.glue.tasks import Task
from q8bert.glue.tokenizer import Encoded, TextTokenizer
from q8bert.training.engine import Batch

__all__ = ["TokenizedSplit", "tokenize_split"]


@dataclass(frozen=True)
class TokenizedSplit:
    """A split ready to be batched.

    Attributes:
        encoded: Token ids of every row.
        labels: Int64 ids or float32 scores, ``(n,)``.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.
    """

    encoded: Encoded
    labels: Tensor
    input_names: tuple[str, ...]
    pad_token_id: int

    def __len__(self) -> int:
        return len(self.encoded)

    def training_batches(self, batch_size: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """Return the row numbers of an epoch's batches, the same for the same seed and epoch."""
        return shuffled_batches(self.encoded.lengths, batch_size, seed=seed, epoch=epoch)

    def evaluation_batches(self, batch_size: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Yield row numbers and tensors of every batch, longest rows first."""
        for rows in sorted_batches(self.encoded.lengths, batch_size):
            yield rows, self.batch(rows)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Return some rows as tensors, padded to the longest of them."""
        inputs = model_inputs(self.encoded, rows, self.input_names, pad_token_id=self.pad_token_id)
        return Batch({name: torch.from_numpy(array) for name, array in inputs.items()}, self.labels[rows])


def tokenize_split(
    split: Split, task: Task, tokenizer: TextTokenizer, *, input_names: tuple[str, ...], pad_token_id: int
) -> TokenizedSplit:
    """Tokenize every row of a labelled split.

    Args:
        split: The rows.
        task: Says whether there are pairs and whether labels are scores.
        tokenizer: Text → ids.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.

    Returns:
        The split, ready to be batched.

    Raises:
        InputError: If a row has no label.
    """
    texts = [example.text for example in split.examples]
    pairs = [example.text_pair or "" for example in split.examples] if task.text_pair_column else None
    labels = torch.tensor(split.labels(), dtype=torch.float32 if task.is_regression else torch.int64)
    return TokenizedSplit(tokenizer.encode(texts, pairs), labels, input_names, pad_token_id)
