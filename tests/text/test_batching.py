"""Batches hold every row once, rows of like length together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from q8bert.text.batching import model_inputs, shuffled_batches, sorted_batches
from q8bert.text.encoded import Encoded, Rows

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 33), st.integers(0, 3))
def test_every_row_is_in_exactly_one_batch(lengths: list[int], batch_size: int, epoch: int) -> None:
    array = np.array(lengths)
    for batches in (sorted_batches(array, batch_size), shuffled_batches(array, batch_size, seed=5, epoch=epoch)):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert max(len(rows) for rows in batches) <= batch_size
        assert len(batches) == -(-len(lengths) // batch_size)


def test_order_follows_from_seed_and_epoch_and_rows_of_a_batch_are_alike() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    first, again, other = (shuffled_batches(lengths, 10, seed=1, epoch=epoch) for epoch in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    padded = sum(lengths[rows].max() * len(rows) for rows in first)
    assert padded < 1.1 * lengths.sum()  # against about 1.9 in random order


def test_short_rows_are_padded_to_the_longest_of_their_batch() -> None:
    encoded = Encoded(Rows.of([[5, 6, 7], [8]]), Rows.of([[0, 0, 1], [0]]))
    inputs = model_inputs(encoded, np.array([1, 0]), ("input_ids", "attention_mask", "token_type_ids"), pad_token_id=9)
    assert inputs["input_ids"].tolist() == [[8, 9, 9], [5, 6, 7]]
    assert inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}


def test_rows_are_padded_on_to_a_multiple_where_one_is_wanted() -> None:
    encoded = Encoded(Rows.of([[5, 6, 7], [8]]), Rows.of([[0, 0, 1], [0]]))
    for multiple, length in ((2, 4), (3, 3), (8, 8)):
        inputs = model_inputs(
            encoded, np.array([1, 0]), ("input_ids", "attention_mask"), pad_token_id=9, multiple=multiple
        )
        assert inputs["input_ids"].tolist() == [[8] + [9] * (length - 1), [5, 6, 7] + [9] * (length - 3)]
        assert inputs["attention_mask"].sum(axis=1).tolist() == [1, 3]
