"""Counters of services that replaced each other add up."""

from q8bert.runtime.server.models.counts import added
from q8bert.runtime.service.service_counters import ServiceCounters, ServiceSnapshot


def snapshot(*, n_answered: int, batches: list[tuple[list[float], float]], healthy: bool = True) -> ServiceSnapshot:
    counters = ServiceCounters()
    for _ in range(n_answered):
        counters.request_came()
        counters.request_ended("answered", latency_ms=3.0)
    for queue_ms, model_ms in batches:
        counters.batch_computed(queue_ms=queue_ms, model_ms=model_ms, n_tokens=10, n_padded=15)
    return counters.snapshot(healthy=healthy, workers=2, queue_length=4, running=1)


def test_counts_add_up_and_the_present_moment_is_the_first_ones() -> None:
    new = snapshot(n_answered=2, batches=[([1.5], 7.0)], healthy=False)
    old = snapshot(n_answered=3, batches=[([1.5, 30.0], 70.0), ([6.0], 0.5)])
    total = added([new, old])
    assert total is not None
    assert (total.requests, total.answered, total.batches, total.rows) == (5, 5, 3, 4)
    assert (total.tokens, total.padding) == (30, 15)
    assert (total.healthy, total.workers, total.queue_length, total.running) == (False, 2, 4, 1)
    assert sum(total.queue_ms.counts) == 4
    assert total.queue_ms.total == 1.5 + 1.5 + 30.0 + 6.0
    assert total.model_ms.total == 77.5
    # bounds 1, 2, 5, 10, 20, 50 …: 1.5 twice in the second bucket, 6.0 in the fourth, 30.0 in the sixth
    assert total.queue_ms.counts[:6] == (0, 2, 0, 1, 0, 1)


def test_nothing_adds_up_to_nothing() -> None:
    assert added([]) is None
