"""The service's Prometheus metrics.

Counted in plain objects: `prometheus_client`'s own counters write to files in BentoML's processes,
and take longer. Labels have few values: served models, their classes, protocols, error codes.
"""

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import get_args

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from loupe.errors import LoupeError
from loupe.images.pool import Loss
from loupe.images.spec import Float32Array
from loupe.models.answers import AnswerOptions, abstentions
from loupe.models.engines.engine import Outputs
from loupe.models.store import StoredModel
from service.http.context import NO_KEY

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # images
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
FAMILIARITIES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
MAX_UNCOUNTED = 512  # images; counting costs NumPy some calls, which are cheap if they are rare
NO_PROTOCOL = "-"  # of requests refused before their route is known
NO_MODEL = "-"  # of requests without a model


class Histogram:
    """Observations, counted by bucket.

    Args:
        bounds: Upper bounds of the buckets, without infinity.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add the counts of another histogram with the same buckets, and its sum."""
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
        self.sum += total

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and cumulative counts, as Prometheus wants them."""
        bounds = [*map(str, map(float, self._bounds)), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))


class Metrics(Collector):
    """The metrics of one service process."""

    def __init__(self) -> None:
        self.decode, self.queue, self.compute, self.encode = (Histogram(SECONDS) for _ in range(4))
        self._requests: Counter[tuple[str, ...]] = Counter()
        self.key_images: Counter[tuple[str, ...]] = Counter()
        self._rejected: Counter[tuple[str, ...]] = Counter()
        self._swaps: Counter[tuple[str, ...]] = Counter()
        self.jobs_deleted = 0
        self.webhooks: Counter[tuple[str, ...]] = Counter(
            {(outcome,): 0 for outcome in ("delivered", "retried", "failed")}
        )
        self.webhooks_since: float | None = None  # end of the first job whose is not delivered
        self.trial_images: Counter[tuple[str, ...]] = Counter()
        self.trials_ended: Counter[tuple[str, ...]] = Counter()
        self._lost_decoders: Counter[tuple[str, ...]] = Counter(
            {(loss,): 0 for loss in get_args(Loss)}
        )
        self.batch_sizes: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(BATCH_SIZES))
        self.images: Counter[tuple[str, ...]] = Counter()
        self.abstained: Counter[tuple[str, ...]] = Counter()
        self.confidences: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(CONFIDENCES))
        self.familiarities: defaultdict[str, Histogram] = defaultdict(
            lambda: Histogram(FAMILIARITIES)
        )
        self._models: dict[tuple[str, tuple[str, ...]], ModelMetrics] = {}
        self._in_flight: dict[str, int] = {}
        self._served: Sequence[StoredModel] = ()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(self)

    def answered(self, protocol: str, model: str, status: int, key: str) -> None:
        """Count a finished request; `key` is the name of the client's API key."""
        self._requests[protocol, model, str(status), key] += 1

    def rejected(self, code: str) -> None:
        """Count a refusal by the error's code."""
        self._rejected[(code,)] += 1

    def refused(self, error: LoupeError, key: str = NO_KEY) -> None:
        """Count a request that was refused before its route was known."""
        self.rejected(error.code)
        self.answered(NO_PROTOCOL, NO_MODEL, error.status, key)

    def swapped(self, model: StoredModel, *, succeeded: bool) -> None:
        """Count a change of the served version, or a failed one."""
        self._swaps[model.name, "succeeded" if succeeded else "failed"] += 1

    def lost_decoder(self, loss: Loss) -> None:
        """Count a process that was killed, or crashed, while it decoded a picture."""
        self._lost_decoders[(loss,)] += 1

    def of(self, model: StoredModel) -> "ModelMetrics":
        """Return the metrics of one model. Versions with the same classes share them."""
        name, classes = model.name, model.card.class_names
        for outcome in ("succeeded", "failed"):
            self._swaps[name, outcome] += 0  # so that `increase()` sees the first event
        return self._models.setdefault((name, classes), ModelMetrics(self, name, classes))

    def collected(self, in_flight: dict[str, int], served: Sequence[StoredModel]) -> list[Metric]:
        """Return all metrics of this process.

        Args:
            in_flight: Images without an answer yet, by model.
            served: The served models.
        """
        self._in_flight, self._served = in_flight, served
        return list(self._registry.collect())

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        labels = ("protocol", "model", "status", "key")
        yield _counter("loupe_requests", "Requests answered", labels, self._requests)
        yield _counter(
            "loupe_key_images", "Images classified for an API key", ("key",), self.key_images
        )
        yield _counter(
            "loupe_rejected", "Requests refused, by error code", ("code",), self._rejected
        )
        yield _counter(
            "loupe_model_swaps", "Changes of the served version", ("model", "outcome"), self._swaps
        )
        yield _counter(
            "loupe_trial_images",
            "Images of a version on trial, by how it did beside the one in production",
            ("model", "outcome"),
            self.trial_images,
        )
        yield _counter(
            "loupe_trials_ended",
            "Trials that this service ended",
            ("model", "reason"),
            self.trials_ended,
        )
        yield CounterMetricFamily(
            "loupe_jobs_deleted", "Jobs deleted with uploads and results", self.jobs_deleted
        )
        since = self.webhooks_since
        yield GaugeMetricFamily(
            "loupe_webhooks_oldest_seconds",
            "Time since the first end of a job whose webhook is not delivered",
            value=0 if since is None else max(0.0, time.time() - since),
        )
        yield _counter("loupe_webhooks", "Attempts to send a webhook", ("outcome",), self.webhooks)
        yield _histogram("loupe_batch_size", "Images per run", "model", self.batch_sizes)
        yield _counter(
            "loupe_decoders_lost",
            "Processes killed or crashed while they decoded a picture",
            ("reason",),
            self._lost_decoders,
        )
        phases = {name: getattr(self, name) for name in ("decode", "queue", "compute", "encode")}
        yield _histogram("loupe_seconds", "Seconds per phase of a request", "phase", phases)
        for model in self._models.values():
            model.count()
        yield _counter(
            "loupe_predictions", "Images by their best class", ("model", "label"), self.images
        )
        yield _counter("loupe_abstained", "Images without a label", ("model",), self.abstained)
        yield _histogram(
            "loupe_confidence", "Probability of the best class", "model", self.confidences
        )
        yield _histogram(
            "loupe_familiarity",
            "Share of validation images that are less familiar",
            "model",
            self.familiarities,
        )
        in_flight = GaugeMetricFamily(
            "loupe_images_in_flight", "Images without an answer yet", labels=["model"]
        )
        for name, images in self._in_flight.items():
            in_flight.add_metric([name], images)
        served = GaugeMetricFamily(
            "loupe_model_served", "1 for each served model", labels=["model", "version"]
        )
        for stored in self._served:
            served.add_metric([stored.name, stored.version], 1)
        yield from (in_flight, served)


def exposed(metrics: Sequence[Metric]) -> bytes:
    """Return metrics in Prometheus's text format."""
    return generate_latest(_Collected(metrics))


class _Collected(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


class ModelMetrics:
    """The metrics of one model. Answers are counted many at a time, which is cheap."""

    def __init__(self, metrics: Metrics, name: str, classes: Sequence[str]) -> None:
        self._metrics = metrics
        self._name = name
        self._classes = classes
        self._batch_sizes = metrics.batch_sizes[name]
        self._confidences = metrics.confidences[name]
        self._familiarities = metrics.familiarities[name]
        self._uncounted: list[Outputs] = []
        self._uncounted_images = 0
        metrics.abstained[(name,)] += 0
        for label in classes:
            metrics.images[name, label] += 0

    def ran(self, images: int, waited: Sequence[float], seconds: float) -> None:
        """Record a run: its images, the seconds that each request waited, and its duration."""
        self._batch_sizes.observe(images)
        self._metrics.compute.observe(seconds)
        for wait in waited:
            self._metrics.queue.observe(wait)

    def add(self, outputs: Outputs, options: AnswerOptions) -> None:
        """Add answered images, and count those that `options` refuse a label."""
        if options.refuses:
            refused = abstentions(outputs, options.threshold, options.min_familiarity)
            self._metrics.abstained[(self._name,)] += int(np.count_nonzero(refused))
        self._uncounted.append(outputs)
        self._uncounted_images += len(outputs.familiarity)
        if self._uncounted_images >= MAX_UNCOUNTED:
            self.count()

    def count(self) -> None:
        """Count the images that were added since the last time."""
        if not self._uncounted:
            return
        probabilities, familiarity = Outputs.joined(self._uncounted)
        self._uncounted.clear()
        self._uncounted_images = 0
        images = np.bincount(probabilities.argmax(axis=1), minlength=len(self._classes))
        for label, count in zip(self._classes, images.tolist(), strict=True):
            self._metrics.images[self._name, label] += count
        _observe(self._confidences, CONFIDENCES, probabilities.max(axis=1, initial=0))
        known = familiarity[~np.isnan(familiarity)]
        _observe(self._familiarities, FAMILIARITIES, known)


def _observe(histogram: Histogram, bounds: Sequence[float], values: Float32Array) -> None:
    buckets = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1)
    histogram.add(buckets.tolist(), float(values.sum()))


def _counter(
    name: str, documentation: str, labels: Sequence[str], counts: Mapping[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _histogram(
    name: str, documentation: str, label: str, histograms: dict[str, Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=[label])
    for value, histogram in histograms.items():
        family.add_metric([value], histogram.buckets, sum_value=histogram.sum)
    return family
