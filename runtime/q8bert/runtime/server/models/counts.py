"""Sums of the counters of services that took each other's place, so that no counter ever falls."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from q8bert.runtime.service.service_counters import Histogram, ServiceSnapshot

__all__ = ["added"]

# of the present moment, not counted from the start
_OF_NOW = frozenset({"healthy", "workers", "pending", "queue_length", "running"})


def added(snapshots: Sequence[ServiceSnapshot]) -> ServiceSnapshot | None:
    """Add up snapshots; what is of the present moment is the first one's.

    Args:
        snapshots: That of the service that runs, and of those before it.

    Returns:
        The sums; None where there are no snapshots.
    """
    if not snapshots:
        return None
    sums: dict[str, Any] = {}
    for field in fields(ServiceSnapshot):
        values = [getattr(snapshot, field.name) for snapshot in snapshots]
        sums[field.name] = values[0] if field.name in _OF_NOW else _sum(values)
    return ServiceSnapshot(**sums)


def _sum(values: Sequence[Any]) -> Any:
    first = values[0]
    if not isinstance(first, Histogram):
        return sum(values)
    counts = tuple(map(sum, zip(*(value.counts for value in values), strict=True)))
    return Histogram(first.bounds, counts, sum(value.total for value in values))
