"""Histograms put values where a reader of their bounds expects them."""

import dataclasses
import threading
from typing import Any

import pytest

from q8bert.runtime.service.service_counters import ServiceCounters, ServiceSnapshot


def shot(counters: ServiceCounters, **values: Any) -> ServiceSnapshot:
    return counters.snapshot(**{"healthy": True, "workers": 1, "queue_length": 0, "running": 0} | values)


def test_a_value_on_a_bound_belongs_to_the_bucket_below_it() -> None:
    counters = ServiceCounters()
    for latency_ms in (0.0, 1.0, 1.5, 2.0, 9999.0, 10000.0, 10001.0):
        counters.request_came()
        counters.request_ended("answered", latency_ms=latency_ms)
    histogram = shot(counters).latency_ms
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
    snapshot = shot(counters, queue_length=1)
    assert (snapshot.requests, snapshot.answered, snapshot.expired, snapshot.rejected) == (4, 1, 1, 1)
    assert (snapshot.pending, snapshot.queue_length) == (1, 1)
    assert sum(snapshot.latency_ms.counts) == 1


def test_a_snapshot_stays_as_it_was() -> None:
    counters = ServiceCounters()
    before = shot(counters)
    counters.request_came()
    counters.batch_computed(queue_ms=[1, 20, 300], model_ms=7, n_tokens=60, n_padded=80)
    assert (before.requests, before.batches, before.rows) == (0, 0, 0)
    after = shot(counters)
    assert (after.batches, after.rows, after.tokens, after.padding) == (1, 3, 60, 20)
    assert (before.padding_share, after.padding_share) == (0, 0.25)
    assert (after.queue_ms.total, sum(after.queue_ms.counts)) == (321, 3)
    assert (after.model_ms.total, sum(after.model_ms.counts)) == (7, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.rows = 5  # type: ignore[misc]


def test_a_snapshot_of_any_thread_adds_up() -> None:
    counters = ServiceCounters()
    done = threading.Event()

    def count() -> None:
        for _ in range(20_000):
            counters.request_came()
            counters.request_ended("answered", latency_ms=3.0)
            counters.batch_computed(queue_ms=[1.0], model_ms=1.0, n_tokens=5, n_padded=5)
        done.set()

    thread = threading.Thread(target=count)
    thread.start()
    while not done.is_set():
        snapshot = shot(counters)
        assert snapshot.requests == snapshot.answered + snapshot.pending
        assert sum(snapshot.latency_ms.counts) == snapshot.answered
        assert snapshot.tokens == 5 * snapshot.rows
    thread.join()
