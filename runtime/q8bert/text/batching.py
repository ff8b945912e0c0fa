"""Batches of rows of like length, so that little is padded.

A GLUE row has 10 to 60 tokens where the maximum length is 128: padded to the longest row of a
batch of like rows, most of the work of padding to the maximum disappears. Serving sorts all rows
by length; training shuffles first and sorts within pools, so that batches differ every epoch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from q8bert.text.encoded import Encoded

__all__ = ["batches_in_order", "model_inputs", "shuffled_batches", "sorted_batches"]

# Rows are sorted by length within pools of this many batches: large enough that a batch is
# nearly uniform, small enough that the order stays random.
_POOL_BATCHES = 50


def sorted_batches(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Group rows by length, longest first, so that memory peaks in the first batch.

    Args:
        lengths: Tokens a row, shape ``(n,)``.
        batch_size: Rows a batch; the last one may be smaller.

    Returns:
        Row numbers of each batch; together each row once.
    """
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def batches_in_order(n_rows: int, batch_size: int) -> list[NDArray[np.int64]]:
    """Group rows as they stand, consecutive ones together.

    Args:
        n_rows: Number of rows.
        batch_size: Rows a batch; the last one may be smaller.

    Returns:
        Row numbers of each batch; together each row once.
    """
    rows = np.arange(n_rows)
    return [rows[start : start + batch_size] for start in range(0, n_rows, batch_size)]


def shuffled_batches(lengths: NDArray[np.int64], batch_size: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Group rows of like length in random order, the same for the same seed and epoch.

    Args:
        lengths: Tokens a row, shape ``(n,)``.
        batch_size: Rows a batch; one batch may be smaller.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.

    Returns:
        Row numbers of each batch; together each row once.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    pool = _POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def model_inputs(
    encoded: Encoded, rows: NDArray[np.int64], names: Sequence[str], *, pad_token_id: int, multiple: int = 1
) -> dict[str, NDArray[np.int64]]:
    """Pad some rows to the longest of them and return the model's inputs.

    Args:
        encoded: Ids of all rows.
        rows: Numbers of the rows wanted, length batch.
        names: Inputs that the model takes, of ``input_ids``, ``attention_mask``, ``token_type_ids``.
        pad_token_id: Id that fills ``input_ids``; the other inputs are filled with 0.
        multiple: What the length is a multiple of; kernels of GPUs like 8.

    Returns:
        Int64 arrays ``(batch, seq)`` by name; ``attention_mask`` is 1 on tokens and 0 on padding.
    """
    lengths = [len(encoded.input_ids[row]) for row in rows]
    shape = (len(rows), -(-max(lengths, default=0) // multiple) * multiple)
    inputs = {
        "input_ids": np.full(shape, pad_token_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        inputs["input_ids"][at, :length] = encoded.input_ids[row]
        inputs["attention_mask"][at, :length] = 1
        inputs["token_type_ids"][at, :length] = encoded.token_type_ids[row]
    return {name: inputs[name] for name in names}
