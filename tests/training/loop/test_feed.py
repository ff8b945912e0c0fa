"""What each process runs in each step: every row once an epoch, with its own target, in time for a GPU."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from q8bert.text.encoded import Encoded, Rows
from q8bert.training.loop import feed as feed_module
from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.feed import StepBatches, training_feed
from q8bert.training.loop.processes import Processes

ALONE = Processes()
N_ROWS, ROWS_PER_STEP, BATCH_SIZE = 37, 12, 4
LENGTHS = np.random.default_rng(0).integers(2, 12, N_ROWS)


def split() -> TokenizedSplit:
    """Rows whose tokens are all their number, as their labels are."""
    ids = Rows.of([[row] * length for row, length in enumerate(LENGTHS)])
    return TokenizedSplit(Encoded(ids, ids), torch.arange(N_ROWS), ("input_ids", "attention_mask"), 99)


def fed(*, start: int = 0, processes: Processes = ALONE, device: str = "cpu") -> Iterator[StepBatches]:
    return training_feed(
        split(), rows_per_step=ROWS_PER_STEP, batch_size=BATCH_SIZE, seed=3, start=start, processes=processes,
        device=torch.device(device),
    )  # fmt: skip


def rows_of(step: StepBatches) -> list[int]:
    return [int(label) for batch in step.batches for label in batch.targets["labels"]]


def test_an_epoch_passes_over_every_row_once_in_passes_of_the_batch_size() -> None:
    epoch = list(itertools.islice(fed(), 4))  # 12 + 12 + 12 + 1
    assert sorted(row for step in epoch for row in rows_of(step)) == list(range(N_ROWS))
    assert sorted(step.n_rows for step in epoch) == [1, 12, 12, 12]
    assert all(step.n_rows == len(rows_of(step)) for step in epoch)
    assert {len(batch) for step in epoch for batch in step.batches} == {1, BATCH_SIZE}


def test_every_target_stands_beside_its_own_row_which_is_padded_to_the_longest_of_its_pass() -> None:
    for batch in (batch for step in itertools.islice(fed(), 4) for batch in step.batches):
        rows = batch.targets["labels"].tolist()
        assert batch.inputs["input_ids"].shape == (len(rows), max(LENGTHS[rows]))
        for row, ids, mask in zip(rows, batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True):
            length = LENGTHS[row]
            assert ids.tolist() == [row] * length + [99] * (len(ids) - length)
            assert mask.tolist() == [1] * length + [0] * (len(ids) - length)


@pytest.mark.parametrize("start", [1, 4, 6])
def test_a_feed_may_begin_anywhere(start: int) -> None:
    whole = itertools.islice(fed(), start, start + 5)
    for ours, theirs in zip(itertools.islice(fed(start=start), 5), whole, strict=True):
        assert [batch.targets["labels"].tolist() for batch in ours.batches] == [
            batch.targets["labels"].tolist() for batch in theirs.batches
        ]


def test_processes_share_a_steps_rows_and_one_may_have_none() -> None:
    alone = list(itertools.islice(fed(), 4))
    shares = [list(itertools.islice(fed(processes=Processes(rank, 2)), 4)) for rank in (0, 1)]
    for step, *both in zip(alone, *shares, strict=True):
        assert sorted(rows_of(both[0]) + rows_of(both[1])) == sorted(rows_of(step))
        assert [share.n_rows for share in both] == [step.n_rows] * 2
    last = next(index for index, step in enumerate(alone) if step.n_rows == 1)
    assert [len(share[last].batches) for share in shares] == [1, 0]


def test_for_a_gpu_the_next_step_is_on_its_way_and_lengths_suit_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[StepBatches] = []

    def move(step: StepBatches, device: Any) -> StepBatches:
        assert device == torch.device("cuda", 1)
        moved.append(step)
        return step

    monkeypatch.setattr(feed_module, "_moved", move)
    steps = fed(device="cuda:1")
    expected = [rows_of(step) for step in itertools.islice(fed(), 3)]
    for n_asked in (1, 2, 3):
        assert rows_of(next(steps)) == expected[n_asked - 1]
        assert len(moved) == n_asked + 1
    for batch in (batch for step in moved for batch in step.batches):
        longest = max(LENGTHS[batch.targets["labels"].tolist()])
        n_tokens = batch.inputs["input_ids"].shape[1]
        assert n_tokens % 8 == 0
        assert longest <= n_tokens < longest + 8
        assert (batch.inputs["attention_mask"].sum(dim=1) == torch.tensor(LENGTHS[batch.targets["labels"]])).all()
