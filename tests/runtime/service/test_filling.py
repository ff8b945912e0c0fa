"""Batches by tokens: full, of like length, and never without the oldest row."""

import random

import pytest

from q8bert.runtime.service.filling import BatchLimits, fill


def limits(rows: int = 100, tokens: int = 1000, padding: float = 0.25) -> BatchLimits:
    return BatchLimits(rows=rows, tokens=tokens, padding=padding)


@pytest.mark.parametrize(
    ("lengths", "given", "chosen", "is_full"),
    [
        ([], limits(), [], False),
        ([5], limits(), [0], False),
        ([5, 5, 5], limits(rows=2), [0, 1], True),
        # three rows of 30 are 90 tokens, a fourth would be 120
        ([30, 30, 30, 30], limits(tokens=100), [0, 1, 2], True),
        # a row longer than the budget goes alone
        ([500, 5], limits(tokens=100), [0], True),
        # 75 is 100 less a quarter, 74 is not
        ([100, 75, 74], limits(), [0, 1], False),
        # eight tokens are always allowed, nine are not
        ([4, 12, 13], limits(padding=0), [0, 1], False),
        # the padding that the first and the last would have decides, not that of neighbours
        ([100, 80, 125], limits(), [0, 1], False),
        # what does not fit is passed over for what does
        ([10, 90, 10, 90, 12], limits(), [0, 2, 4], False),
        # 60 + 8 would make three rows of 68, which are 204
        ([60, 60, 68, 60], limits(tokens=200), [0, 1, 3], True),
    ],
)
def test_a_batch_is_filled(lengths: list[int], given: BatchLimits, chosen: list[int], is_full: bool) -> None:
    assert fill(lengths, given) == (chosen, is_full)


def test_no_batch_breaks_its_limits_and_every_row_goes_in_its_turn() -> None:
    rng = random.Random(0)
    for _ in range(200):
        given = limits(rng.randint(1, 20), rng.randint(1, 600), rng.random() * 0.9)
        waiting = [rng.choice([3, 5, rng.randint(3, 60), rng.randint(3, 512)]) for _ in range(rng.randint(1, 80))]
        while waiting:
            chosen, is_full = fill(waiting, given)
            lengths = [waiting[number] for number in chosen]
            assert chosen[0] == 0
            assert len(chosen) <= given.rows
            assert len(chosen) == 1 or len(chosen) * max(lengths) <= given.tokens
            assert max(lengths) - min(lengths) <= max(8, given.padding * max(lengths))
            if is_full:  # one more row of the same length would break a limit
                assert len(chosen) == given.rows or (len(chosen) + 1) * max(lengths) > given.tokens
            waiting = [length for number, length in enumerate(waiting) if number not in set(chosen)]
