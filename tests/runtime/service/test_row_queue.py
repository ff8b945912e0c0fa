"""The queue alone, with a clock of its own: what is refused, and what overload leaves of its answers."""

import asyncio
import heapq
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from q8bert.runtime.service.filling import BatchLimits
from q8bert.runtime.service.request import Request
from q8bert.runtime.service.row_queue import RowQueue
from q8bert.spec.errors import ClosedError, DeadlineError, QueueFullError
from q8bert.text.encoded import Encoded, Rows


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


EMPTY = Encoded(Rows.of([[]]), Rows.of([[]]))


def row(loop: asyncio.AbstractEventLoop, clock: Clock, n_tokens: int = 10, timeout_s: float | None = None) -> Request:
    deadline = None if timeout_s is None else clock.now + timeout_s
    return Request(encoded=EMPTY, n_tokens=n_tokens, answer=loop.create_future(), arrived=clock.now, deadline=deadline)


def queue(clock: Clock, *, rows: int = 8, max_rows: int = 10_000, workers: int = 1) -> RowQueue:
    limits = BatchLimits(rows=rows, tokens=10_000, padding=0.5)
    return RowQueue(limits=limits, max_rows=max_rows, max_delay_s=0, n_workers=workers, clock=clock)


def test_places_are_held_while_a_row_is_tokenized(loop: asyncio.AbstractEventLoop) -> None:
    clock = Clock()
    waiting = queue(clock, max_rows=2)
    waiting.reserve()
    waiting.put(row(loop, clock))
    waiting.release()
    waiting.reserve()
    with pytest.raises(QueueFullError, match="2 rows wait already"):
        waiting.reserve()
    waiting.release()  # it never came
    waiting.reserve()


def test_a_closed_queue_gives_out_what_waits_and_waits_for_what_comes(loop: asyncio.AbstractEventLoop) -> None:
    clock = Clock()
    waiting = queue(clock, rows=1)
    first, second = row(loop, clock), row(loop, clock)
    waiting.put(first)
    waiting.reserve()  # the second is being tokenized
    waiting.close()
    with pytest.raises(ClosedError):
        waiting.reserve()
    assert waiting.take() == [first]
    taken: list[list[Request]] = []
    worker = threading.Thread(target=lambda: taken.extend([waiting.take(), waiting.take()]))
    worker.start()
    waiting.put(second)
    waiting.release()
    worker.join(timeout=60)
    assert taken == [[second], []]


def test_rows_that_are_given_up_or_late_are_not_given_out(loop: asyncio.AbstractEventLoop) -> None:
    clock = Clock()
    waiting = queue(clock)
    gone, late, good = row(loop, clock), row(loop, clock, timeout_s=1), row(loop, clock, timeout_s=3)
    for one in (gone, late, good):
        waiting.put(one)
    gone.answer.cancel()
    clock.now = 2
    assert waiting.take() == [good]
    assert waiting.counts() == (0, 1)


def test_whoever_is_abandoned_is_returned_and_nobody_comes_after(loop: asyncio.AbstractEventLoop) -> None:
    clock = Clock()
    waiting = queue(clock, rows=1)
    first, second = row(loop, clock), row(loop, clock)
    waiting.put(first)
    waiting.put(second)
    waiting.take()
    assert waiting.abandon(for_good=True) == [second, first]
    with pytest.raises(ClosedError):
        waiting.put(row(loop, clock))
    assert waiting.take() == []


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("load", [0.5, 2.0, 5.0])
def test_overload_leaves_the_answers_that_can_be_given(
    loop: asyncio.AbstractEventLoop, load: float, n_workers: int
) -> None:
    """Each worker does 8 rows in 0.1 s: 80 rows a second at most; deadlines of half a second; a minute of it."""
    clock, rng = Clock(), random.Random(0)
    waiting = queue(clock, workers=n_workers)
    capacity = 60 * 80 * n_workers
    arrivals = [rng.random() * 60 for _ in range(int(capacity * load))]
    events: list[tuple[float, int, list[Request] | None]] = [(at, number, None) for number, at in enumerate(arrivals)]
    heapq.heapify(events)
    n_in_time = n_late = n_refused = n_running = 0
    number = len(events)
    while events:
        clock.now, _, batch = heapq.heappop(events)
        if batch is None:
            try:
                waiting.put(row(loop, clock, timeout_s=0.5))
            except DeadlineError:
                n_refused += 1
        else:
            waiting.finished(batch, tokens=10 * len(batch), seconds=0.02 + 0.01 * len(batch))
            on_time = sum(one.deadline is not None and one.deadline >= clock.now for one in batch)
            n_in_time, n_late, n_running = n_in_time + on_time, n_late + len(batch) - on_time, n_running - 1
        while n_running < n_workers and waiting.counts()[0]:
            waiting.close()  # so that nothing is waited for where all that waits is late
            taken = waiting.take()
            waiting._is_closing = False
            if taken:
                n_running, number = n_running + 1, number + 1
                heapq.heappush(events, (clock.now + 0.02 + 0.01 * len(taken), number, taken))
    assert n_in_time > 0.9 * min(len(arrivals), capacity)
    assert n_late < 0.02 * n_in_time, "what is computed is not computed in vain"
    assert (n_refused > 0) is (load > 1)
