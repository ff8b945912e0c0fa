"""Metrics for Prometheus: what the services count, and what becomes of requests.

Names follow https://prometheus.io/docs/practices/naming: base units, and ``_total`` for what only grows. Times of the
services are kept in milliseconds and given out in seconds.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from q8bert.runtime.server.models.models import Key, Models
from q8bert.runtime.service import service_counters

__all__ = ["Metrics"]

_LABELS = ("model", "version")
_LATENCIES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

Snapshots = Mapping[Key, service_counters.ServiceSnapshot]


class Metrics:
    """Counts requests, and writes all metrics of a server.

    Args:
        models: Its models.
        state: Returns requests on their way, and bytes of bodies held.
    """

    def __init__(self, models: Models, *, state: Callable[[], tuple[int, int]]) -> None:
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._seconds = Histogram(
            "q8bert_request_duration_seconds",
            "From the head of a request for inference to its answer, of those that were answered.",
            _LABELS,
            buckets=_LATENCIES_S,
            registry=self._registry,
        )
        self._registry.register(_Server(models, self._requests, state))

    def request_ended(self, *, model: str, version: str, outcome: str, seconds: float) -> None:
        """Count a request for inference.

        Args:
            model: Its model; empty where there is none of that name.
            version: The version that it got.
            outcome: How it ended.
            seconds: How long it took.
        """
        self._requests[model, version, outcome] += 1
        if outcome == "answered":
            self._seconds.labels(model, version).observe(seconds)

    def outcomes(self) -> Mapping[str, int]:
        """Return how many requests for inference ended in which way."""
        total: Counter[str] = Counter()
        for (_, _, outcome), number in self._requests.items():
            total[outcome] += number
        return dict(total)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _Server(Collector):
    """What is read when somebody asks for it."""

    def __init__(
        self, models: Models, requests: Counter[tuple[str, str, str]], state: Callable[[], tuple[int, int]]
    ) -> None:
        self._models, self._requests, self._state = models, requests, state

    def describe(self) -> Iterable[Metric]:
        return ()  # so that registering it does not collect

    def collect(self) -> Iterator[Metric]:
        n_requests, n_bytes = self._state()
        yield GaugeMetricFamily("q8bert_requests_in_flight", "Requests on their way.", n_requests)
        yield GaugeMetricFamily("q8bert_body_bytes", "Bytes of bodies that are held.", n_bytes)
        ended = CounterMetricFamily(
            "q8bert_requests", "Requests for inference, by how they ended.", labels=(*_LABELS, "outcome")
        )
        for labels, number in self._requests.copy().items():
            ended.add_metric(labels, number)
        yield ended
        yield from self._of_bundles()
        snapshots = {
            model.key: counts for model in self._models if (counts := self._models.counts(model.key)) is not None
        }
        yield from _gauges(snapshots)
        yield from _counters(snapshots)
        yield from _histograms(snapshots)

    def _of_bundles(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "q8bert_model_info", "1 for each bundle that serves.", labels=(*_LABELS, "digest", "precision", "engine")
        )
        refused = GaugeMetricFamily(
            "q8bert_bundle_problem", "1 where the newest bundle of a model does not serve.", labels=_LABELS
        )
        reloads = CounterMetricFamily(
            "q8bert_reloads", "New bundles, by what became of them.", labels=(*_LABELS, "outcome")
        )
        for model in self._models:
            name, number = model.key
            info.add_metric([name, str(number), model.digest, model.classifier.precision, model.classifier.engine], 1)
            refused.add_metric([name, str(number)], float(model.key in self._models.problems))
        for name, number in self._models.problems.keys() - {model.key for model in self._models}:
            refused.add_metric([name, str(number)], 1)
        for ((name, number), outcome), times in self._models.n_reloads.copy().items():
            reloads.add_metric([name, str(number), outcome], times)
        yield from (info, refused, reloads)


def _gauges(snapshots: Snapshots) -> Iterator[Metric]:
    described: tuple[tuple[str, str, Callable[[service_counters.ServiceSnapshot], float]], ...] = (
        ("q8bert_model_healthy", "1 where a model answers.", lambda one: float(one.healthy)),
        ("q8bert_workers", "Threads that run a model.", lambda one: one.workers),
        ("q8bert_queue_rows", "Rows that wait for a batch.", lambda one: one.queue_length),
        ("q8bert_running_rows", "Rows that are being computed.", lambda one: one.running),
        ("q8bert_padding_share", "Share of all tokens computed that was padding.", lambda one: one.padding_share),
    )
    for name, text, value in described:
        family = GaugeMetricFamily(name, text, labels=_LABELS)
        for (model, number), snapshot in snapshots.items():
            family.add_metric([model, str(number)], value(snapshot))
        yield family


def _counters(snapshots: Snapshots) -> Iterator[Metric]:
    for name, field, text in (
        ("q8bert_batches", "batches", "Batches computed."),
        ("q8bert_rows", "rows", "Rows in them."),
        ("q8bert_tokens", "tokens", "Tokens in them, padding left out."),
        ("q8bert_padding_tokens", "padding", "Tokens of padding in them."),
        ("q8bert_worker_failures", "worker_failures", "Batches that failed for something unforeseen."),
    ):
        family = CounterMetricFamily(name, text, labels=_LABELS)
        for (model, number), snapshot in snapshots.items():
            family.add_metric([model, str(number)], getattr(snapshot, field))
        yield family
    rows = CounterMetricFamily("q8bert_rows_ended", "Rows, by how they ended.", labels=(*_LABELS, "outcome"))
    for (model, number), snapshot in snapshots.items():
        for outcome in service_counters.OUTCOMES:
            rows.add_metric([model, str(number), outcome], getattr(snapshot, outcome))
    yield rows


def _histograms(snapshots: Snapshots) -> Iterator[Metric]:
    for name, field, text, unit in (
        ("q8bert_queue_seconds", "queue_ms", "From a row's arrival to its batch: tokenization and waiting.", 1000.0),
        ("q8bert_model_seconds", "model_ms", "Of each batch, in its worker.", 1000.0),
        ("q8bert_batch_rows", "batch_rows", "Rows a batch.", 1.0),
    ):
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for (model, number), snapshot in snapshots.items():
            found: service_counters.Histogram = getattr(snapshot, field)
            buckets, so_far = [], 0
            for bound, count in zip((*found.bounds, float("inf")), found.counts, strict=True):
                so_far += count
                buckets.append(("+Inf" if bound == float("inf") else f"{bound / unit:g}", so_far))
            family.add_metric([model, str(number)], buckets, found.total / unit)
        yield family
