"""A classifier for asyncio services: callers send one row each, the model gets batches.

A row is checked and tokenized at the call, on a small pool of threads, and waits until the rows that suit it fill a
batch or the oldest has waited ``max_delay_ms``; while the workers are busy, rows gather for the next batch. The model
runs on threads of its own, so the event loop stays free. What waits is bounded: a caller that finds the queue full, or
whose deadline cannot be made, is refused at once, which is better for everybody than an answer that comes too late.
"""

import asyncio
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import EllipsisType, TracebackType
from typing import Annotated, Self

from q8bert.machine.cores import available_cores
from q8bert.runtime.predict.classifier import BatchSize, Classifier
from q8bert.runtime.predict.rows import Columns, Row, refuse_unordered, text_columns
from q8bert.runtime.service.filling import BatchLimits
from q8bert.runtime.service.request import Outcome, Request, settle
from q8bert.runtime.service.row_queue import RowQueue
from q8bert.runtime.service.service_counters import ServiceCounters, ServiceSnapshot
from q8bert.runtime.service.workers import Workers
from q8bert.spec.checked import checked
from q8bert.spec.errors import ClosedError, DeadlineError, InputError, Q8BertError, QueueFullError, WorkerError
from q8bert.spec.kinds import above, at_least, share
from q8bert.tasks.head import Prediction
from q8bert.text.encoded import Encoded

__all__ = ["AsyncClassifier"]

# tokenizing a row takes a hundredth of the time that the model takes for it
_TOKENIZER_THREADS = 2

Seconds = Annotated[float, above(0)]


class AsyncClassifier:
    """Answers single rows of many callers in batches; an async context manager. Any event loop may call it.

    Args:
        classifier: The loaded classifier; ``RuntimeOptions.service()`` suits it.
        max_batch_size: Most rows in a batch.
        max_batch_tokens: Most tokens in a batch, padding included; a row that is longer goes alone.
        max_padding: Most padding of a row, as a share of the longest row of its batch; 8 tokens are always allowed.
        max_delay_ms: Longest time that a row waits for others, in milliseconds, while a worker is idle.
        max_queue: Most rows that wait.
        max_characters: Most characters of a row, both texts together; longer ones are refused before any work is done.
        timeout_s: Default deadline of a call, in seconds from the call; None for none.
        drain_s: How long leaving the context waits for rows that are not answered yet; None for as long as it takes.
        workers: Threads that run the model, each on a batch of its own. Default: so many that together with the
            classifier's own threads they use the cores that this process may use; one where the engine runs one batch
            at a time.

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
        max_batch_tokens: Annotated[int, at_least(1)] = 4096,
        max_padding: Annotated[float, share()] = 0.25,
        max_delay_ms: Annotated[float, at_least(0)] = 2.0,
        max_queue: Annotated[int, at_least(1)] = 1024,
        max_characters: Annotated[int, at_least(1)] = 100_000,
        timeout_s: Seconds | None = None,
        drain_s: Annotated[float, at_least(0)] | None = 30.0,
        workers: Annotated[int, at_least(1)] | None = None,
    ) -> None:
        self._classifier = classifier
        self._max_characters, self._timeout_s, self._drain_s = max_characters, timeout_s, drain_s
        self._n_workers = workers or (
            max(1, available_cores() // classifier.threads) if classifier.runs_together else 1
        )
        # so many rows of one caller are on their way at once: they keep all workers busy and leave room for others
        self._n_at_once = max(1, min(max_queue // 2, 4 * self._n_workers * max_batch_size))
        self._counters = ServiceCounters()
        self._queue = RowQueue(
            limits=BatchLimits(rows=max_batch_size, tokens=max_batch_tokens, padding=max_padding),
            max_rows=max_queue,
            max_delay_s=max_delay_ms / 1000,
            n_workers=self._n_workers,
        )
        self._workers = Workers(self._n_workers, queue=self._queue, compute=self._compute, counters=self._counters)
        self._tokenizers = ThreadPoolExecutor(_TOKENIZER_THREADS, thread_name_prefix="q8bert-tokenizer")
        self._opened_in: int | None = None  # the process
        self._is_closed = False

    async def __aenter__(self) -> Self:
        if self._opened_in is not None or self._is_closed:
            raise ClosedError("an AsyncClassifier is entered once; make a new one, the classifier can be shared")
        self._opened_in = os.getpid()
        self._workers.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __call__(
        self, text: str, text_pair: str | None = None, *, timeout_s: float | EllipsisType | None = ...
    ) -> Prediction:
        """Classify one row.

        Args:
            text: The first or only text.
            text_pair: The second text, for a task on pairs.
            timeout_s: Deadline in seconds from now, instead of the service's own; None for none. A row that still waits
                when it passes is not computed.

        Returns:
            The prediction.

        Raises:
            InputError: If the row does not fit the task, is too long where the classifier refuses long rows, has more
                than ``max_characters``, or ``timeout_s`` is no number.
            QueueFullError: If ``max_queue`` rows wait already.
            DeadlineError: If the deadline passed, or cannot be made.
            ClosedError: If the service is not open.
            BundleError: If the model cannot run this row.
            WorkerError: If something unforeseen happened.
        """
        with self._counted():
            row = text if text_pair is None else (text, text_pair)
            return await self._answer(row, self._deadline(timeout_s))

    async def many(
        self, rows: Iterable[Row], *, timeout_s: float | EllipsisType | None = ...
    ) -> list[Prediction | Q8BertError]:
        """Classify many rows of one caller, of which no more wait at once than leave room for other callers.

        Args:
            rows: Texts, or pairs of texts; taken as they are needed.
            timeout_s: Deadline of all of them in seconds from now, instead of the service's own; None for none.

        Returns:
            One prediction a row, in order, or the error that a call with this row alone would raise.

        Raises:
            InputError: If ``rows`` is no collection with an order, or ``timeout_s`` no number.
            DeadlineError: If it is not above 0.
        """
        refuse_unordered(rows)
        deadline = self._deadline(timeout_s)
        numbered, outcomes = enumerate(rows), dict[int, Outcome]()

        async def send() -> None:
            for number, row in numbered:
                try:
                    with self._counted():
                        outcomes[number] = await self._answer(row, deadline)
                except Q8BertError as error:
                    outcomes[number] = error

        senders = [asyncio.ensure_future(send()) for _ in range(self._n_at_once)]
        try:
            await asyncio.gather(*senders)
        finally:  # one of them failed, for the rows' own iterator raised something, or the caller is gone
            for sender in senders:
                sender.cancel()
        return [outcomes[number] for number in range(len(outcomes))]

    @property
    def healthy(self) -> bool:
        """Whether the service is open, its workers run, and not all of the last batches failed unforeseen."""
        return self._opened_in == os.getpid() and not self._is_closed and self._workers.are_healthy

    def snapshot(self) -> ServiceSnapshot:
        """Return the counters as they are now; from any thread."""
        n_waiting, n_running = self._queue.counts()
        return self._counters.snapshot(
            healthy=self.healthy, workers=self._n_workers, queue_length=n_waiting, running=n_running
        )

    async def close(self, *, drain_s: float | EllipsisType | None = ...) -> None:
        """Refuse new calls, answer those that wait, and end the threads. A second call does no harm.

        When the caller of this is cancelled, the waiting rows are still answered.

        Args:
            drain_s: How long to wait for rows that are not answered yet, instead of the service's own; None for as long
                as it takes. Rows that are not answered by then fail with a
                :class:`~q8bert.spec.errors.ClosedError`.
        """
        self._is_closed = True
        self._queue.close()
        if self._opened_in == os.getpid():
            loop = asyncio.get_running_loop()
            ended = loop.create_future()
            self._workers.when_ended(lambda: _tell(loop, ended))
            await asyncio.wait([ended], timeout=self._drain_s if isinstance(drain_s, EllipsisType) else drain_s)
        given_up = self._queue.abandon(for_good=True)
        settle((request, ClosedError("the service was closed before the row was answered")) for request in given_up)
        self._tokenizers.shutdown(wait=False)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a call and how it ends; the only place that does."""
        started = time.monotonic()
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
            self._counters.request_ended(outcome, latency_ms=1000 * (time.monotonic() - started))

    def _deadline(self, timeout_s: float | EllipsisType | None) -> float | None:
        if isinstance(timeout_s, EllipsisType):
            timeout_s = self._timeout_s
        if timeout_s is None:
            return None
        if not isinstance(timeout_s, int | float) or isinstance(timeout_s, bool) or math.isnan(timeout_s):
            raise InputError(f"timeout_s must be a number of seconds or None, got {timeout_s!r}")
        if not timeout_s > 0:
            raise DeadlineError(f"the deadline had passed before the call (timeout_s={timeout_s})")
        return time.monotonic() + timeout_s

    async def _answer(self, row: Row, deadline: float | None) -> Prediction:
        if self._opened_in != os.getpid():
            where = "not open yet; use it as `async with AsyncClassifier(…) as service`"
            raise ClosedError(f"the service is {where if self._opened_in is None else 'open in another process'}")
        arrived = time.monotonic()
        columns = text_columns(self._classifier.task, [row], None)
        n_characters = sum(len(text) for column in columns if column is not None for text in column)
        if n_characters > self._max_characters:
            raise InputError(f"the row has {n_characters} characters, and at most {self._max_characters} are taken")
        self._queue.reserve(deadline)
        try:
            async with asyncio.timeout(None if deadline is None else deadline - arrived) as limit:
                request = await self._waiting(columns, arrived, deadline)
                try:
                    return await request.answer
                finally:
                    self._queue.withdraw(request)
        except TimeoutError as error:
            if limit.expired():
                raise DeadlineError("no answer by the deadline") from error
            raise

    async def _waiting(self, columns: Columns, arrived: float, deadline: float | None) -> Request:
        """Tokenize a row and let it wait; its place in the queue was reserved."""
        loop = asyncio.get_running_loop()
        try:
            encoded = await loop.run_in_executor(self._tokenizers, self._classifier.encode, *columns)
            request = Request(
                encoded=encoded,
                n_tokens=int(encoded.lengths[0]),
                answer=loop.create_future(),
                arrived=arrived,
                deadline=deadline,
            )
            self._queue.put(request)
            return request
        except (Q8BertError, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise WorkerError(f"the row was not tokenized: {type(error).__name__}: {error}") from error
        finally:
            self._queue.release()

    def _compute(self, rows: Encoded) -> Sequence[Outcome]:
        outcomes = self._classifier.outcomes(rows, batch_size=len(rows))
        if all(isinstance(outcome, Q8BertError) for outcome in outcomes):
            self._classifier.prove()  # the rows, or the model? a GPU may be lost
        return outcomes


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    def set_it() -> None:
        if not ended.done():
            ended.set_result(None)

    with suppress(RuntimeError):  # who closed the service has closed the loop meanwhile
        loop.call_soon_threadsafe(set_it)
