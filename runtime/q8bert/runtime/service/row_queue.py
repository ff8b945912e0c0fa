"""The rows that wait for the model, shared by the event loops that bring them and the threads that take them.

Bounded: who finds it full is refused at once. A row with a deadline that it cannot make, as far as the model's speed of
late tells, is refused at once too: served in order of arrival, a service that is asked for more than it can do would
else finish every row just after its caller has gone. When nothing waits and nothing runs, every row is taken, so that
the speed is measured again.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence

from q8bert.runtime.service.filling import BatchLimits, fill
from q8bert.runtime.service.request import Request, settle
from q8bert.runtime.service.speed import BatchSpeed
from q8bert.spec.errors import ClosedError, DeadlineError, QueueFullError

__all__ = ["RowQueue"]

_LEAST_TOKENS = 1


class RowQueue:
    """Rows in order of arrival; every method may be called from any thread.

    Args:
        limits: What a batch may be.
        max_rows: Most rows that wait, those that are being tokenized included.
        max_delay_s: Longest time that a row waits for others while a worker is idle, in seconds.
        n_workers: Threads that take batches.
        clock: Returns seconds; another one for tests.
    """

    def __init__(
        self,
        *,
        limits: BatchLimits,
        max_rows: int,
        max_delay_s: float,
        n_workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._max_rows, self._max_delay_s, self._n_workers = limits, max_rows, max_delay_s, n_workers
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[Request, None] = {}  # in order of arrival, and quick to remove from
        self._running: dict[Request, tuple[float, int]] = {}  # since when, and the tokens of its batch
        self._n_coming = 0
        self._is_closing = self._is_abandoned = False
        self._speed = BatchSpeed()

    def reserve(self, deadline: float | None = None) -> None:
        """Hold a place for a row that is tokenized first.

        Args:
            deadline: When its answer is of no use any more; None for never.

        Raises:
            DeadlineError: If not even the shortest row could be answered by then.
            QueueFullError: If there is no place.
            ClosedError: If the queue takes no rows any more.
        """
        with self._changed:
            if self._is_closing:
                raise ClosedError("the service is closed")
            self._refuse_hopeless(_LEAST_TOKENS, deadline)
            if self._n_coming + len(self._waiting) >= self._max_rows:
                raise QueueFullError(f"{self._max_rows} rows wait already; try again later, or raise max_queue")
            self._n_coming += 1

    def release(self) -> None:
        """Give back a place that was held: its row is in the queue by now, or will not come."""
        with self._changed:
            self._n_coming -= 1
            self._changed.notify_all()

    def put(self, request: Request) -> None:
        """Let a row wait.

        Args:
            request: The row; a place for it was reserved.

        Raises:
            DeadlineError: If it cannot be answered by its deadline, as far as is known.
            ClosedError: If those who wait have been given up.
        """
        with self._changed:
            if self._is_abandoned:
                raise ClosedError("the service was closed before the row was computed")
            self._refuse_hopeless(request.n_tokens, request.deadline)
            self._waiting[request] = None
            self._changed.notify_all()

    def withdraw(self, request: Request) -> None:
        """Take a row out that nobody wants any more; it may be gone already."""
        with self._changed:
            if self._waiting.pop(request, 0) is None:
                self._changed.notify_all()

    def take(self) -> list[Request]:
        """Wait for rows and take a batch out of the queue.

        Returns:
            The rows; none when the queue is closed and empty.
        """
        with self._changed:
            while True:
                self._drop_late()
                if self._waiting:
                    batch, is_full = self._filled()
                    patience = batch[0].arrived + self._max_delay_s - self._clock()
                    if is_full or self._is_closing or patience <= 0:
                        break
                    self._changed.wait(patience)
                elif self._is_closing and not self._n_coming:
                    return []
                else:
                    self._changed.wait()
            for request in batch:
                del self._waiting[request]
            batch = self._spared(batch)
            started = self._clock(), sum(request.n_tokens for request in batch)
            self._running |= dict.fromkeys(batch, started)
            return batch

    def finished(self, batch: Sequence[Request], *, tokens: int, seconds: float) -> None:
        """Note that a batch is done.

        Args:
            batch: Its rows.
            tokens: Tokens in it, padding left out.
            seconds: How long it took; 0 for one that was not computed, which says nothing of the speed.
        """
        with self._changed:
            for request in batch:
                self._running.pop(request, None)
            if seconds > 0:
                self._speed.add(tokens, seconds)

    def close(self) -> None:
        """Take no new rows; those that wait are still given out, and no longer wait for others."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def abandon(self, *, for_good: bool) -> list[Request]:
        """Take out all rows that wait.

        Args:
            for_good: Whether the queue ends with it; then the rows that run are returned too, and none comes any more.

        Returns:
            The rows, for the caller to fail.
        """
        with self._changed:
            given_up = [*self._waiting, *(self._running if for_good else ())]
            self._waiting.clear()
            if for_good:
                self._is_closing = self._is_abandoned = True
                self._running.clear()
            self._changed.notify_all()
            return given_up

    def counts(self) -> tuple[int, int]:
        """Return how many rows wait for a batch, those that are being tokenized included, and how many run."""
        with self._changed:
            return self._n_coming + len(self._waiting), len(self._running)

    def _refuse_hopeless(self, n_tokens: int, deadline: float | None) -> None:
        if deadline is None or not (self._waiting or self._running):
            return
        needed, left = self._seconds_until_answered(n_tokens), deadline - self._clock()
        if needed > left:
            raise DeadlineError(
                f"refused at once: an answer would take about {needed:.3g} s with {len(self._waiting)} rows waiting, "
                f"and the deadline is {left:.3g} s away"
            )

    def _seconds_until_answered(self, n_tokens: int) -> float:
        tokens = n_tokens + sum(other.n_tokens for other in self._waiting)
        n_rows = 1 + len(self._waiting)
        full = min(self._limits.tokens, self._limits.rows * tokens / n_rows)
        n_batches = math.ceil(tokens / full)
        # a batch that is not the last one is full, and so will be the last one by then
        seconds = self._speed.seconds(full if n_batches > 1 else tokens)
        return self._seconds_until_free() + math.ceil(n_batches / self._n_workers) * seconds

    def _seconds_until_free(self) -> float:
        now, runs = self._clock(), set(self._running.values())
        if len(runs) < self._n_workers:
            return 0.0
        return min(max(0.0, self._speed.seconds(tokens) - (now - since)) for since, tokens in runs)

    def _spared(self, batch: list[Request]) -> list[Request]:
        """Leave out of a batch what would be too late, and tell the callers; but nothing if that is all of it."""
        end = self._clock() + self._speed.seconds(sum(request.n_tokens for request in batch))
        spared = [request for request in batch if request.deadline is None or request.deadline >= end]
        if not spared:
            return batch
        settle(
            (request, DeadlineError("not computed: the answer would have come after the deadline"))
            for request in batch
            if request not in spared
        )
        return spared

    def _drop_late(self) -> None:
        # their callers' own timers tell them
        now = self._clock()
        late = [one for one in self._waiting if one.is_given_up or (one.deadline is not None and one.deadline <= now)]
        for request in late:
            del self._waiting[request]

    def _filled(self) -> tuple[list[Request], bool]:
        waiting = sorted(self._waiting, key=lambda request: request.arrived)  # one may be tokenized faster than another
        chosen, is_full = fill((request.n_tokens for request in waiting), self._limits)
        return [waiting[number] for number in chosen], is_full
