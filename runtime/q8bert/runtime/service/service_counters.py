"""What a service counts: how requests ended, where their time went, how full batches were.

No metrics library is needed here and any can be fed: :class:`ServiceSnapshot` is plain numbers, and its histograms have
fixed bounds, as Prometheus wants them. Every request ends in exactly one way, so at any moment::

    requests = answered + invalid + rejected + expired + cancelled + failed + pending
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["OUTCOMES", "Histogram", "ServiceCounters", "ServiceSnapshot"]

OUTCOMES = ("answered", "invalid", "rejected", "expired", "cancelled", "failed")
_BOUNDS_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
_BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True)
class Histogram:
    """How often values fell between bounds.

    Attributes:
        bounds: Upper bounds, inclusive, ascending.
        counts: Values in each bucket, not cumulative; one more than there are bounds, the last for what is above all.
        total: Sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, kw_only=True)
class ServiceSnapshot:
    """The counters of a service at one moment; all grow from its start, but the first five.

    Attributes:
        healthy: Whether the service is open and its workers run.
        workers: Threads that run the model.
        pending: Calls that have not ended yet, waiting or being computed.
        queue_length: Rows that wait for a batch, those that are being tokenized included.
        running: Rows that are being computed.
        requests: Calls.
        answered: Calls that got a prediction.
        invalid: Calls whose text was refused: of the wrong kind, not valid Unicode, or too long where that is refused.
        rejected: Calls that found the queue full or the service closed.
        expired: Calls whose deadline passed, or could not be made.
        cancelled: Calls that the caller gave up.
        failed: Calls whose row the model could not run.
        worker_failures: Batches that failed for something unforeseen.
        batches: Batches computed.
        rows: Rows in them.
        tokens: Tokens in them, padding left out.
        padding: Tokens of padding in them.
        latency_ms: From call to answer, of the answered calls.
        queue_ms: From call to the start of its batch, of every row computed: tokenization and waiting.
        model_ms: Of each batch, in its worker.
        batch_rows: Rows a batch.
    """

    healthy: bool
    workers: int
    pending: int
    queue_length: int
    running: int
    requests: int
    answered: int
    invalid: int
    rejected: int
    expired: int
    cancelled: int
    failed: int
    worker_failures: int
    batches: int
    rows: int
    tokens: int
    padding: int
    latency_ms: Histogram
    queue_ms: Histogram
    model_ms: Histogram
    batch_rows: Histogram

    @property
    def padding_share(self) -> float:
        """Share of what was computed that was padding; 0 before the first batch."""
        return self.padding / max(1, self.tokens + self.padding)


class ServiceCounters:
    """The counters behind the snapshots; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: Counter[str] = Counter()
        self._n: Counter[str] = Counter()
        self._latency, self._queue, self._model = (_Buckets(_BOUNDS_MS) for _ in range(3))
        self._batches = _Buckets(_BATCH_BOUNDS)

    def request_came(self) -> None:
        """Count a call."""
        with self._lock:
            self._n["requests"] += 1

    def request_ended(self, outcome: str, *, latency_ms: float) -> None:
        """Count how a call ended: one of :data:`OUTCOMES`."""
        with self._lock:
            self._ended[outcome] += 1
            if outcome == "answered":
                self._latency.add(latency_ms)

    def batch_computed(self, *, queue_ms: Sequence[float], model_ms: float, n_tokens: int, n_padded: int) -> None:
        """Count a batch.

        Args:
            queue_ms: How long each of its rows had waited.
            model_ms: How long it took.
            n_tokens: Tokens of its rows.
            n_padded: The same with padding.
        """
        with self._lock:
            for waited in queue_ms:
                self._queue.add(waited)
            self._model.add(model_ms)
            self._batches.add(len(queue_ms))
            self._n["tokens"] += n_tokens
            self._n["padding"] += n_padded - n_tokens

    def worker_failed(self) -> None:
        """Count a batch that failed for something unforeseen."""
        with self._lock:
            self._n["worker_failures"] += 1

    def snapshot(self, *, healthy: bool, workers: int, queue_length: int, running: int) -> ServiceSnapshot:
        """Return the counters as they are now."""
        with self._lock:
            batches = self._batches.histogram()
            return ServiceSnapshot(
                healthy=healthy,
                workers=workers,
                pending=self._n["requests"] - self._ended.total(),
                queue_length=queue_length,
                running=running,
                **{name: self._n[name] for name in ("requests", "worker_failures", "tokens", "padding")},
                **{outcome: self._ended[outcome] for outcome in OUTCOMES},
                batches=sum(batches.counts),
                rows=int(batches.total),
                latency_ms=self._latency.histogram(),
                queue_ms=self._queue.histogram(),
                model_ms=self._model.histogram(),
                batch_rows=batches,
            )


class _Buckets:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)
