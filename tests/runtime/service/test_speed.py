"""The time of a batch is a line over its tokens."""

import numpy as np
import pytest

from q8bert.runtime.service.speed import BatchSpeed


def test_nothing_is_known_before_the_first_batch() -> None:
    speed = BatchSpeed()
    assert not speed.is_known
    assert speed.seconds(1000, n_batches=3) == 0


def test_batches_on_a_line_give_that_line() -> None:
    speed, rng = BatchSpeed(), np.random.default_rng(0)
    for tokens in rng.integers(10, 4000, size=50).tolist():
        speed.add(tokens, 0.002 + 1e-5 * tokens)
    assert speed.seconds(500) == pytest.approx(0.002 + 0.005, rel=1e-3)
    assert speed.seconds(9000, n_batches=4) == pytest.approx(4 * 0.002 + 0.09, rel=1e-3)


def test_lone_rows_do_not_make_a_token_expensive() -> None:
    speed = BatchSpeed()
    for _ in range(100):
        speed.add(10, 0.003)
    # how much of it is the batch's own is not known yet: another batch takes as long as these
    assert speed.seconds(1000, n_batches=1) == pytest.approx(0.003)
    assert speed.seconds(1000, n_batches=5) == pytest.approx(0.015)


def test_what_is_slow_today_is_believed_soon() -> None:
    speed = BatchSpeed()
    for _ in range(100):
        speed.add(100, 0.01)
    for _ in range(30):
        speed.add(100, 0.1)
    assert speed.seconds(100) == pytest.approx(0.1 - 0.09 * 0.9**30)


def test_a_hiccup_of_a_small_batch_makes_no_time_negative() -> None:
    speed = BatchSpeed()
    for tokens, seconds in [(10, 5.0), (1000, 0.1), (2000, 0.2)]:
        speed.add(tokens, seconds)
    assert all(speed.seconds(tokens, n_batches=0.1) >= 0 for tokens in (1, 100, 10**6))
