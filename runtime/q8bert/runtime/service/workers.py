"""The threads that run the model: whatever happens in one of them, its rows are answered or failed, and it goes on.

They are daemons: a model that never comes back does not keep the process from ending.
"""

import threading
import time
from collections.abc import Callable, Sequence

from q8bert.runtime.service.request import Outcome, Request, settle
from q8bert.runtime.service.row_queue import RowQueue
from q8bert.runtime.service.service_counters import ServiceCounters
from q8bert.spec.errors import WorkerError
from q8bert.text.encoded import Encoded

__all__ = ["Workers"]

# after something unforeseen a worker waits this long, so that what fails for ever does not take a core
_PAUSE_S = 0.05
_SICK_AFTER = 3


class Workers:
    """Some threads that take batches from a queue, compute them and tell the callers.

    Args:
        n_workers: How many.
        queue: Where the rows wait.
        compute: Classifies some rows; called by several threads at once. One prediction or error a row.
        counters: Count batches and failures.
    """

    def __init__(
        self,
        n_workers: int,
        *,
        queue: RowQueue,
        compute: Callable[[Encoded], Sequence[Outcome]],
        counters: ServiceCounters,
    ) -> None:
        self._queue, self._compute, self._counters = queue, compute, counters
        self._threads = [
            threading.Thread(target=self._work, name=f"q8bert-{number}", daemon=True) for number in range(n_workers)
        ]
        self._lock = threading.Lock()
        self._n_failed_in_a_row = 0
        self._n_ended = 0
        self._when_ended: list[Callable[[], None]] = []

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def are_healthy(self) -> bool:
        """Whether every thread runs, and not all of the last few batches failed for something unforeseen."""
        return all(thread.is_alive() for thread in self._threads) and self._n_failed_in_a_row < _SICK_AFTER

    def when_ended(self, tell: Callable[[], None]) -> None:
        """Call something when all threads have ended, from the last of them, or at once."""
        with self._lock:
            if self._n_ended < len(self._threads):
                self._when_ended.append(tell)
                return
        tell()

    def _work(self) -> None:
        try:
            while self._go_on():
                pass
        finally:
            with self._lock:
                self._n_ended += 1
                told = self._when_ended if self._n_ended == len(self._threads) else []
            for tell in told:
                tell()

    def _go_on(self) -> bool:
        """Do one batch; False when there is none any more."""
        batch: list[Request] = []
        try:
            batch = self._queue.take()
            if batch:
                self._answer(batch)
        except BaseException as error:  # noqa: BLE001 - its callers would wait for ever
            self._fail(batch, error)
            return True
        return bool(batch)

    def _answer(self, batch: list[Request]) -> None:
        started = time.monotonic()
        rows = Encoded.joined([request.encoded for request in batch])
        outcomes = self._compute(rows)
        seconds = time.monotonic() - started
        answers = list(zip(batch, outcomes, strict=True))
        n_tokens = sum(request.n_tokens for request in batch)
        self._queue.finished(batch, tokens=n_tokens, seconds=seconds)
        self._counters.batch_computed(
            queue_ms=[1000 * (started - request.arrived) for request in batch],
            model_ms=1000 * seconds,
            n_tokens=n_tokens,
            n_padded=len(batch) * max(request.n_tokens for request in batch),
        )
        self._n_failed_in_a_row = 0
        settle(answers)

    def _fail(self, batch: list[Request], error: BaseException) -> None:
        # one that fails before it has rows would never get any: then those that wait are told
        failed = batch or self._queue.abandon(for_good=False)
        self._n_failed_in_a_row += 1
        self._counters.worker_failed()
        settle((request, _own_error(error)) for request in failed)
        self._queue.finished(batch, tokens=0, seconds=0)
        time.sleep(_PAUSE_S)


def _own_error(error: BaseException) -> WorkerError:
    # an object of its own for each caller: Python writes into an exception what happens to it
    own = WorkerError(f"the row was not computed: {type(error).__name__}: {error}")
    own.__cause__ = error
    return own
