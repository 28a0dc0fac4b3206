"""What Prometheus sees of the service. Labels have few values: models that are served, their classes, protocols, codes of errors."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

os.environ.pop(
    "PROMETHEUS_MULTIPROC_DIR", None
)  # before the next import: one process, whose numbers need no files
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
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
from loupe.images.spec import Float32Array
from loupe.models.store import StoredModel
from loupe.old_errors.service import TooManyRequests

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # images
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
CONFIDENCES = (
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.99,
    1.0,
)  # upper bounds; the last takes rounding errors too
MOST_UNCOUNTED = 64  # images
NO_PROTOCOL = "-"  # where it is not known
NO_MODEL = "-"  # where a request has got none
NO_KEY = "-"  # where none is needed


class Metrics:
    """The counters and histograms of one service process, in a registry of its own: BentoML's writes every number to a file."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = self._counter(
            "loupe_requests", "Requests answered", "protocol", "model", "status", "key"
        )
        self._rejected = self._counter(
            "loupe_rejected", "Requests refused, by the error's code", "code"
        )
        self._swaps = self._counter(
            "loupe_model_swaps", "Models that took over, or failed to", "model", "outcome"
        )
        self._batch_size = self._histogram(
            "loupe_batch_size", "Images in one run of the engine", "model", BATCH_SIZES
        )
        seconds = self._histogram(
            "loupe_seconds", "Where the time of requests goes", "phase", SECONDS
        )
        self.decode, self.queue, self.compute, self.encode = (
            seconds.labels(phase) for phase in ("decode", "queue", "compute", "encode")
        )
        self.too_many = 0  # requests refused since the last look because too many were in hand; a sum costs least when time is short
        self._tallies: dict[
            tuple[str, tuple[str, ...]], Tally
        ] = {}  # by name and classes of a model
        self._registry.register(_Answers(self._tallies.values()))

    def answered(self, protocol: str, model: str, status: int, key: str) -> None:
        """A request has ended; `key` is the name of its caller's API key."""
        self._requests.labels(protocol, model, str(status), key).inc()

    def rejected(self, code: str) -> None:
        """A request was refused."""
        self._rejected.labels(code).inc()

    def refused(self, error: LoupeError) -> None:
        """A request was refused before it was known what it asks."""
        self.rejected(error.code)
        self.answered(NO_PROTOCOL, NO_MODEL, error.status, NO_KEY)

    def swapped(self, model: StoredModel, *, succeeded: bool) -> None:
        """A model has taken the place of another, or could not."""
        self._swaps.labels(model.name, "succeeded" if succeeded else "failed").inc()

    def of(self, model: StoredModel) -> "ModelMetrics":
        """Those of one model; versions of a name that have the same classes are counted together."""
        classes = model.card.class_names
        for outcome in ("succeeded", "failed"):
            self._swaps.labels(
                model.name, outcome
            )  # from zero on, so that the first one is seen as an increase
        tally = self._tallies.setdefault((model.name, classes), Tally(model.name, classes))
        return ModelMetrics(self, self._batch_size.labels(model.name), tally)

    def exposed(self, in_flight: dict[str, int], served: Sequence[StoredModel]) -> bytes:
        """What was counted and what is so at this moment, in Prometheus's text format.

        Args:
            in_flight: Images that have no answer yet, by model.
            served: The models that are served.
        """
        self._count_too_many()
        state = CollectorRegistry()
        state.register(_State(in_flight, served))
        return generate_latest(self._registry) + generate_latest(state)

    def _count_too_many(self) -> None:
        refused, self.too_many = self.too_many, 0
        self._rejected.labels(TooManyRequests.code).inc(refused)
        self._requests.labels(NO_PROTOCOL, NO_MODEL, str(TooManyRequests.status), NO_KEY).inc(
            refused
        )

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)

    def _histogram(
        self, name: str, documentation: str, label: str, buckets: Sequence[float]
    ) -> Histogram:
        return Histogram(name, documentation, [label], buckets=buckets, registry=self._registry)


class Tally:
    """What was answered: images by class, and confidences by bucket. Answers are counted many at a time, which costs a lone one least."""

    def __init__(self, model: str, classes: Sequence[str]) -> None:
        self.model = model
        self.classes = classes
        self.images = np.zeros(len(classes), np.int64)
        self.confidences = np.zeros(len(CONFIDENCES), np.int64)
        self.sum_of_confidences = 0.0
        self.abstained = 0
        self._uncounted: list[Float32Array] = []
        self._uncounted_images = 0

    def add(self, probabilities: Float32Array, threshold: float | None) -> None:
        """Images that have been answered; `probabilities` is float32 of shape `(n, classes)`."""
        if threshold is not None:
            self.abstained += int(
                np.count_nonzero(probabilities.max(axis=1, initial=0) < threshold)
            )
        self._uncounted.append(probabilities)
        self._uncounted_images += len(probabilities)
        if self._uncounted_images >= MOST_UNCOUNTED:
            self.count()

    def count(self) -> None:
        """Bring the figures up to now."""
        if not self._uncounted:
            return
        probabilities = np.concatenate(self._uncounted)
        self._uncounted.clear()
        self._uncounted_images = 0
        best = probabilities.max(axis=1, initial=0)
        self.images += np.bincount(probabilities.argmax(axis=1), minlength=len(self.classes))
        buckets = np.minimum(np.searchsorted(CONFIDENCES, best), len(CONFIDENCES) - 1)
        self.confidences += np.bincount(buckets, minlength=len(CONFIDENCES))
        self.sum_of_confidences += float(best.sum())


@dataclass(frozen=True)
class ModelMetrics:
    """What is counted of one model."""

    metrics: Metrics
    batch_size: Histogram
    tally: Tally

    def ran(self, images: int, waited: Sequence[float], seconds: float) -> None:
        """One run of the engine: how many images, how long each request had waited for it, how long it took."""
        self.batch_size.observe(images)
        self.metrics.compute.observe(seconds)
        for wait in waited:
            self.metrics.queue.observe(wait)


class _Answers(Collector):
    """Classes and confidences of what was answered."""

    def __init__(self, tallies: Iterable[Tally]) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        images = CounterMetricFamily(
            "loupe_predictions", "Images by their best class", labels=["model", "label"]
        )
        abstained = CounterMetricFamily(
            "loupe_abstained", "Images below the threshold asked for", labels=["model"]
        )
        confidence = HistogramMetricFamily(
            "loupe_confidence", "Probability of the best class", labels=["model"]
        )
        for model in dict.fromkeys(tally.model for tally in self._tallies):
            tallies = [tally for tally in self._tallies if tally.model == model]
            for tally in tallies:
                tally.count()
            by_class: defaultdict[str, int] = defaultdict(int)
            for tally in tallies:
                for label, count in zip(tally.classes, tally.images.tolist(), strict=True):
                    by_class[label] += count
            for label, count in by_class.items():
                images.add_metric([model, label], count)
            abstained.add_metric([model], sum(tally.abstained for tally in tallies))
            up_to = np.cumsum(sum(tally.confidences for tally in tallies))
            bounds = [*map(str, CONFIDENCES[:-1]), "+Inf"]
            buckets = list(zip(bounds, up_to.tolist(), strict=True))
            confidence.add_metric(
                [model], buckets, sum_value=sum(tally.sum_of_confidences for tally in tallies)
            )
        yield from (images, abstained, confidence)


class _State(Collector):
    """What is so at the moment of asking."""

    def __init__(self, in_flight: dict[str, int], served: Sequence[StoredModel]) -> None:
        self._in_flight = in_flight
        self._served = served

    def collect(self) -> Iterator[Metric]:
        flying = GaugeMetricFamily(
            "loupe_images_in_flight", "Images that have no answer yet", labels=["model"]
        )
        for model, images in self._in_flight.items():
            flying.add_metric([model], images)
        served = GaugeMetricFamily(
            "loupe_model_served", "1 for each model that is served", labels=["model", "version"]
        )
        for stored in self._served:
            served.add_metric([stored.name, stored.version], 1)
        yield from (flying, served)
