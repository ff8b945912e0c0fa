"""Rows of a split as tensors: tokenized once, batched by length every epoch."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from q8bert.data.encoding import encode_examples
from q8bert.data.examples import Split
from q8bert.tasks.head import Head
from q8bert.text.batching import batches_in_order, model_inputs, shuffled_batches, sorted_batches
from q8bert.text.encoded import Encoded
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.engines.engine import Batch
from q8bert.training.objectives.distillation import teacher_target
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale

__all__ = ["TokenizedSplit", "passes_of_steps", "shared_out", "tokenize_split"]


@dataclass(frozen=True)
class TokenizedSplit:
    """A split ready to be batched.

    Attributes:
        encoded: Token ids of every row.
        labels: Int64 ids, or float64 scores in the user's units, ``(n,)``.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.
        target_scale: Between scores and what the model computes.
        teacher: What a teacher said of every row, float64 ``(n, n_outputs)``: logits, or scores in the user's units;
            None where none is learned from.
        is_shuffled: Whether training takes the rows in an order that is drawn anew for every epoch, and not as they
            stand.
    """

    encoded: Encoded
    labels: Tensor
    input_names: tuple[str, ...]
    pad_token_id: int
    target_scale: TargetScale = UNSCALED
    teacher: Tensor | None = None
    is_shuffled: bool = True

    def __len__(self) -> int:
        return len(self.encoded)

    def select(self, rows: NDArray[np.int64]) -> "TokenizedSplit":
        """Return some of the rows, in the order given and numbered anew."""
        return replace(
            self,
            encoded=self.encoded.select(rows.tolist()),
            labels=self.labels[rows],
            teacher=None if self.teacher is None else self.teacher[rows],
        )

    def training_steps(self, rows_per_step: int, *, seed: int, start: int) -> Iterator[NDArray[np.int64]]:
        """Yield the row numbers of one optimizer step after the other, epoch after epoch, without end.

        Args:
            rows_per_step: Rows of a step, over all processes and forward passes.
            seed: Seed of the run.
            start: Step to begin with; what is yielded depends on nothing before it.

        Yields:
            Row numbers, sorted by length where they are shuffled; at an epoch's end there may be fewer.
        """
        epoch, skipped = divmod(start, self.steps_per_epoch(rows_per_step))
        while True:
            if self.is_shuffled:
                steps = shuffled_batches(self.encoded.lengths, rows_per_step, seed=seed, epoch=epoch)
            else:
                steps = batches_in_order(len(self), rows_per_step)
            yield from steps[skipped:]
            epoch, skipped = epoch + 1, 0

    def steps_per_epoch(self, rows_per_step: int) -> int:
        """Return how many optimizer steps an epoch has."""
        return -(-len(self) // rows_per_step)

    def evaluation_batches(
        self, batch_size: int, *, rank: int = 0, n_processes: int = 1
    ) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Yield row numbers and tensors of every batch, or of this process's share, longest rows first."""
        for rows in sorted_batches(self.encoded.lengths, batch_size)[rank::n_processes]:
            yield rows, self.batch(rows)

    def batch(self, rows: NDArray[np.int64], *, multiple: int = 1) -> Batch:
        """Return some rows as tensors, padded to the longest of them, or on to the next multiple of a length."""
        inputs = model_inputs(self.encoded, rows, self.input_names, pad_token_id=self.pad_token_id, multiple=multiple)
        return Batch({name: torch.from_numpy(array) for name, array in inputs.items()}, self._targets(rows))

    def _targets(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        labels = self.labels[rows]
        targets = {"labels": self.target_scale.standardize(labels) if labels.is_floating_point() else labels}
        if self.teacher is not None:  # logits of labels have no units, and so none to be brought to
            targets[teacher_target("logits")] = self.target_scale.standardize(self.teacher[rows])
        return targets


def shared_out(rows: NDArray[np.int64], batch_size: int, *, rank: int, n_processes: int) -> list[NDArray[np.int64]]:
    """Return one process's forward passes of a step.

    Rows of a step are sorted by length: dealt out in turn, every process gets as much work; cut into consecutive
    passes, little is padded.

    Args:
        rows: Row numbers of the whole step.
        batch_size: Rows a forward pass, at most.
        rank: Number of the process.
        n_processes: Number of processes.

    Returns:
        Row numbers of each pass; over all processes each row once.
    """
    own = rows[rank::n_processes]
    return [own[at : at + batch_size] for at in range(0, len(own), batch_size)]


def passes_of_steps(
    split: TokenizedSplit,
    *,
    n_steps: int,
    rows_per_step: int,
    batch_size: int,
    seed: int,
    rank: int,
    n_processes: int,
    start: int = 0,
) -> Iterator[Iterator[Mapping[str, Tensor]]]:
    """Yield what one process runs forward in each of some steps of a run.

    Args:
        split: Training rows.
        n_steps: Number of steps; fewer are yielded when an epoch has fewer.
        rows_per_step: Rows of a step, over all processes and forward passes.
        batch_size: Rows a forward pass, at most.
        seed: Seed of the run.
        rank: Number of the process.
        n_processes: Number of processes.
        start: Step to begin with.

    Yields:
        For each step, the inputs of its forward passes: int64 ``(batch, seq)`` by name.
    """
    steps = split.training_steps(rows_per_step, seed=seed, start=start)
    for rows in itertools.islice(steps, min(n_steps, split.steps_per_epoch(rows_per_step))):
        passes = shared_out(rows, batch_size, rank=rank, n_processes=n_processes)
        yield (split.batch(part).inputs for part in passes)


def tokenize_split(
    split: Split,
    head: Head,
    tokenizer: TextTokenizer,
    *,
    input_names: tuple[str, ...],
    pad_token_id: int,
    target_scale: TargetScale = UNSCALED,
) -> TokenizedSplit:
    """Tokenize every row of a labelled split, or take its token ids.

    Args:
        split: The rows.
        head: Says whether labels are ids or scores.
        tokenizer: Text → ids.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.
        target_scale: Between scores and what the model computes.

    Returns:
        The split, ready to be batched.

    Raises:
        InputError: If a row has no label, or came as token ids that are not the tokenizer's.
    """
    labels = torch.tensor(split.labels(), dtype=torch.float64 if head.is_regression else torch.int64)
    encoded = encode_examples(split.examples, tokenizer, source=split.source)
    return TokenizedSplit(encoded, labels, input_names, pad_token_id, target_scale)
