"""What a service counts: how requests ended, how long answers took, how full batches were.

No metrics library is needed here and any can be fed: :class:`ServiceSnapshot` is plain numbers, and its histograms have
fixed bounds, as Prometheus wants them. Every request ends in exactly one way, so at any moment::

    requests = answered + invalid + rejected + expired + cancelled + failed + pending
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

__all__ = ["OUTCOMES", "Histogram", "ServiceCounters", "ServiceSnapshot"]

OUTCOMES = ("answered", "invalid", "rejected", "expired", "cancelled", "failed")
_LATENCY_BOUNDS_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
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


@dataclass(frozen=True)
class ServiceSnapshot:
    """The counters of a service at one moment; all grow from its start, but ``pending`` and ``queue_length``.

    Attributes:
        requests: Calls.
        answered: Calls that got a prediction.
        invalid: Calls whose text was refused: of the wrong kind, not valid Unicode, or too long where that is refused.
        rejected: Calls that found the queue full or the service closed.
        expired: Calls whose deadline passed.
        cancelled: Calls that the caller gave up.
        failed: Calls whose batch the model could not run.
        pending: Calls that have not ended yet, waiting or being computed.
        queue_length: Calls that wait for a batch.
        batches: Batches computed.
        rows: Rows in them.
        latency_ms: From call to answer, of the answered calls.
        batch_rows: Rows a batch.
    """

    requests: int
    answered: int
    invalid: int
    rejected: int
    expired: int
    cancelled: int
    failed: int
    pending: int
    queue_length: int
    batches: int
    rows: int
    latency_ms: Histogram
    batch_rows: Histogram


class ServiceCounters:
    """The counters behind the snapshots; belongs to one event loop."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._requests = 0
        self._pending = 0
        self._latency = _Buckets(_LATENCY_BOUNDS_MS)
        self._batches = _Buckets(_BATCH_BOUNDS)

    def request_came(self) -> None:
        """Count a call."""
        self._requests += 1
        self._pending += 1

    def request_ended(self, outcome: str, *, latency_ms: float) -> None:
        """Count how a call ended: one of :data:`OUTCOMES`."""
        self._pending -= 1
        self._ended[outcome] += 1
        if outcome == "answered":
            self._latency.add(latency_ms)

    def batch_computed(self, n_rows: int) -> None:
        """Count a batch."""
        self._batches.add(n_rows)

    def snapshot(self, *, queue_length: int) -> ServiceSnapshot:
        """Return the counters as they are now."""
        batches = self._batches.histogram()
        return ServiceSnapshot(
            requests=self._requests,
            **{outcome: self._ended[outcome] for outcome in OUTCOMES},
            pending=self._pending,
            queue_length=queue_length,
            batches=sum(batches.counts),
            rows=int(batches.total),
            latency_ms=self._latency.histogram(),
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
