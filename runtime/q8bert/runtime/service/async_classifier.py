"""A classifier for asyncio services: callers send one row each, the model gets batches.

A row waits until ``max_batch_size`` rows are there or the oldest has waited ``max_delay_ms``; while the model runs,
rows gather for the next batch. The model runs on threads of its own, so the event loop stays free. The queue is
bounded: a caller that finds it full is refused at once, which is better for everybody than an answer that comes too
late.

Everything but the model's run happens on the event loop, so there are no locks.
"""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Self

from q8bert.runtime.predict.classifier import BatchSize, Classifier
from q8bert.runtime.predict.rows import text_columns
from q8bert.runtime.service.service_counters import ServiceCounters, ServiceSnapshot
from q8bert.spec.checked import checked
from q8bert.spec.errors import ClosedError, DeadlineError, InputError, QueueFullError
from q8bert.spec.kinds import above, at_least
from q8bert.tasks.head import Prediction

__all__ = ["AsyncClassifier"]

_Answer = asyncio.Future[Prediction]


@dataclass(eq=False)
class _Request:
    text: str
    text_pair: str | None
    answer: _Answer
    arrived: float
    deadline: float | None


class AsyncClassifier:
    """Answers single rows of many callers in batches; an async context manager.

    Args:
        classifier: The loaded classifier; ``RuntimeOptions.service()`` suits it.
        max_batch_size: Most rows in a batch.
        max_delay_ms: Longest time that a row waits for others, in milliseconds, while the model is idle.
        max_queue: Most rows that wait.
        timeout_s: Default deadline of a call, in seconds from the call; None for none.
        workers: Threads that run the model, each on a batch of its own.

    Raises:
        ConfigError: If a value is of another type or out of range.

    Example:
        >>> async with AsyncClassifier(classifier) as service:  # doctest: +SKIP
        ...     prediction = await service("a charming film")
    """

    @checked
    def __init__(
        self,
        classifier: Classifier,
        *,
        max_batch_size: BatchSize = 32,
        max_delay_ms: Annotated[float, at_least(0)] = 2.0,
        max_queue: Annotated[int, at_least(1)] = 1024,
        timeout_s: Annotated[float, above(0)] | None = None,
        workers: Annotated[int, at_least(1)] = 1,
    ) -> None:
        self._classifier = classifier
        self._max_batch_size = max_batch_size
        self._max_delay_s = max_delay_ms / 1000
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="q8bert")
        self._n_workers = workers
        self._workers: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._waiting: dict[_Request, None] = {}  # in order of arrival, and quick to remove from
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._counters = ServiceCounters()

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise ClosedError("an AsyncClassifier is entered once; make a new one, the classifier can be shared")
        self._loop = asyncio.get_running_loop()
        self._workers = [self._loop.create_task(self._work()) for _ in range(self._n_workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __call__(self, text: str, text_pair: str | None = None, *, timeout_s: float | None = None) -> Prediction:
        """Classify one row.

        Args:
            text: The first or only text.
            text_pair: The second text, for a task on pairs.
            timeout_s: Deadline in seconds from now, instead of the default one; a row that still waits when it passes
                is not computed.

        Returns:
            The prediction.

        Raises:
            InputError: If the row does not fit the task, or is too long where the classifier refuses long rows, or
                ``timeout_s`` is no number.
            QueueFullError: If ``max_queue`` rows wait already.
            DeadlineError: If the deadline passed.
            ClosedError: If the service is not open.
            BundleError: If the model cannot run the batch; every caller of the batch gets the same error.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        with self._counted():
            self._check_open()
            text_columns(self._classifier.task, [text], None if text_pair is None else [text_pair])
            request = self._enqueue(text, text_pair, timeout_s)
            return await self._wait_for(request, timeout_s)

    def snapshot(self) -> ServiceSnapshot:
        """Return the counters as they are now; call it on the event loop."""
        return self._counters.snapshot(queue_length=len(self._waiting))

    async def close(self) -> None:
        """Refuse new calls, answer those that wait, and end the threads. A second call does no harm.

        When the caller of this is cancelled, the waiting rows are still answered.
        """
        self._closing = True
        self._signal()
        if self._workers:
            await asyncio.wait(self._workers)
        self._pool.shutdown(wait=False)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a call and how it ends; the only place that does."""
        started = asyncio.get_running_loop().time()
        self._counters.request_came()
        outcome = "failed"
        try:
            yield
            outcome = "answered"
        except InputError:
            outcome = "invalid"
            raise
        except (QueueFullError, ClosedError):
            outcome = "rejected"
            raise
        except DeadlineError:
            outcome = "expired"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            seconds = asyncio.get_running_loop().time() - started
            self._counters.request_ended(outcome, latency_ms=1000 * seconds)

    def _check_open(self) -> None:
        if self._loop is None or self._closing:
            state = "closed" if self._closing else "not open yet; use it as `async with AsyncClassifier(…) as service`"
            raise ClosedError(f"the service is {state}")
        if self._loop is not asyncio.get_running_loop():
            raise ClosedError("the service is open on another event loop; make one for each loop")

    def _enqueue(self, text: str, text_pair: str | None, timeout_s: float | None) -> _Request:
        if timeout_s is not None and not isinstance(timeout_s, int | float):
            raise InputError(f"timeout_s must be a number of seconds or None, got {timeout_s!r}")
        if timeout_s is not None and not timeout_s > 0:
            raise DeadlineError(f"the deadline had passed before the call (timeout_s={timeout_s})")
        if len(self._waiting) >= self._max_queue:
            raise QueueFullError(f"{self._max_queue} rows wait already; try again later, or raise max_queue")
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = None if timeout_s is None else now + timeout_s
        request = _Request(text, text_pair, loop.create_future(), now, deadline)
        self._waiting[request] = None
        self._signal()
        return request

    async def _wait_for(self, request: _Request, timeout_s: float | None) -> Prediction:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await request.answer
        except TimeoutError as error:
            if limit.expired():
                raise DeadlineError(f"no answer within {timeout_s} s") from error
            raise
        finally:
            self._waiting.pop(request, None)
            self._signal()

    def _signal(self) -> None:
        """Let the events follow the queue."""
        for event, holds in (
            (self._some, bool(self._waiting) or self._closing),
            (self._enough, len(self._waiting) >= self._max_batch_size or self._closing),
        ):
            if holds:
                event.set()
            else:
                event.clear()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := await self._next_batch():
            run = loop.run_in_executor(self._pool, self._compute, batch)
            await asyncio.wait([run])
            self._counters.batch_computed(len(batch))
            error = run.exception()
            outcomes: Sequence[Prediction | BaseException] = run.result() if error is None else [error] * len(batch)
            for request, outcome in zip(batch, outcomes, strict=True):
                if request.answer.done():
                    continue  # its caller is gone
                if isinstance(outcome, BaseException):
                    request.answer.set_exception(outcome)
                else:
                    request.answer.set_result(outcome)

    async def _next_batch(self) -> list[_Request]:
        """Wait for rows; an empty list says that the service is closed and the queue drained."""
        while True:
            await self._some.wait()
            if not self._waiting:  # another worker was quicker, the caller is gone, or nobody comes any more
                if self._closing:
                    return []
                continue
            await self._gather()
            if batch := self._take():
                return batch

    async def _gather(self) -> None:
        """Wait until the queue fills a batch or its oldest row has waited long enough."""
        remaining = next(iter(self._waiting)).arrived + self._max_delay_s - asyncio.get_running_loop().time()
        if remaining > 0:
            try:
                async with asyncio.timeout(remaining):
                    await self._enough.wait()
            except TimeoutError:
                pass

    def _take(self) -> list[_Request]:
        now = asyncio.get_running_loop().time()
        batch: list[_Request] = []
        for request in list(self._waiting):
            if len(batch) == self._max_batch_size:
                break
            del self._waiting[request]
            # one whose deadline passed while the loop was busy gets its error from its own timer
            if not request.answer.done() and (request.deadline is None or now < request.deadline):
                batch.append(request)
        self._signal()
        return batch

    def _compute(self, batch: Sequence[_Request]) -> list[Prediction | InputError]:
        texts = [request.text for request in batch]
        pairs = [request.text_pair or "" for request in batch] if self._classifier.task.data.has_pairs else None
        return self._classifier.answers(texts, pairs, batch_size=self._max_batch_size)
