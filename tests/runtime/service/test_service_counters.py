"""Histograms put values where a reader of their bounds expects them."""

import dataclasses

import pytest

from q8bert.runtime.service.service_counters import ServiceCounters


def test_a_value_on_a_bound_belongs_to_the_bucket_below_it() -> None:
    counters = ServiceCounters()
    for latency_ms in (0.0, 1.0, 1.5, 2.0, 9999.0, 10000.0, 10001.0):
        counters.request_came()
        counters.request_ended("answered", latency_ms=latency_ms)
    histogram = counters.snapshot(queue_length=0).latency_ms
    assert len(histogram.counts) == len(histogram.bounds) + 1
    assert list(histogram.bounds) == sorted(histogram.bounds)
    # by the definition bounds[i - 1] < value <= bounds[i]
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (2, 2, 2, 1)
    assert sum(histogram.counts) == 7
    assert histogram.total == pytest.approx(0 + 1 + 1.5 + 2 + 9999 + 10000 + 10001)


def test_only_answered_calls_have_a_latency() -> None:
    counters = ServiceCounters()
    for outcome in ("answered", "expired", "rejected"):
        counters.request_came()
        counters.request_ended(outcome, latency_ms=5.0)
    counters.request_came()
    snapshot = counters.snapshot(queue_length=1)
    assert (snapshot.requests, snapshot.answered, snapshot.expired, snapshot.rejected) == (4, 1, 1, 1)
    assert (snapshot.pending, snapshot.queue_length) == (1, 1)
    assert sum(snapshot.latency_ms.counts) == 1


def test_a_snapshot_stays_as_it_was() -> None:
    counters = ServiceCounters()
    before = counters.snapshot(queue_length=0)
    counters.request_came()
    counters.batch_computed(3)
    assert (before.requests, before.batches, before.rows) == (0, 0, 0)
    after = counters.snapshot(queue_length=0)
    assert (after.batches, after.rows) == (1, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.rows = 5  # type: ignore[misc]
