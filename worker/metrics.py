"""Metrics for Prometheus: counters of this process, and the state of the queue."""

import logging
import threading
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError
from redis.retry import Retry

from loupe.errors import ProgramFailed
from loupe.images.pool import Loss
from loupe.runtime.redis_server import BACKOFF, HASTY
from loupe.settings import Settings
from worker.queue.claims import Delivery
from worker.queue.depth import depth_metrics, measure_depth
from worker.queue.steps import Kind

logger = logging.getLogger(__name__)

Phase = Literal["plan", "read", "score", "write"]
Outcome = Literal["done", "cancelled", "lost", "retried", "failed"]
# Prometheus waits at most 10 s. Retries of a connection multiply with those of its commands.
PROMPT: dict[str, Any] = HASTY | {
    "retry": Retry(BACKOFF, 1),
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
}
SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


class ShardClock:
    """Seconds that a shard takes by phase, summed over threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._turn = threading.Lock()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Add the time of the block to a phase."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        with self._turn:
            self.seconds[phase] += seconds


class Metrics:
    """Counters of one worker process, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._images = Counter(
            "loupe_worker_images", "Images of committed shards", ["outcome"], registry=self.registry
        )
        self._errors = Counter(
            "loupe_worker_errors",
            "Images of committed shards that could not be read, by the error's code",
            ["code"],
            registry=self.registry,
        )
        self._steps = Counter(
            "loupe_worker_steps",
            "Steps of jobs, by how they ended here",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self._claimed_again = Counter(
            "loupe_worker_steps_claimed_again",
            "Steps that failed before, or whose worker died or lost its lease",
            registry=self.registry,
        )
        self._lost_decoders = Counter(
            "loupe_worker_decoders_lost",
            "Processes killed or crashed while they decoded a picture",
            ["reason"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "loupe_worker_shard_seconds",
            "Where the time of a shard goes, summed over threads",
            ["phase"],
            buckets=SECONDS,
            registry=self.registry,
        )
        # A series that begins with 1 has no increase, so alerts would miss its first event.
        for outcome in ("scored", "failed"):
            self._images.labels(outcome)
        for loss in get_args(Loss):
            self._lost_decoders.labels(loss)
        for kind in get_args(Kind):
            for ending in get_args(Outcome):
                self._steps.labels(kind, ending)

    def lost_decoder(self, loss: Loss) -> None:
        """Count a process that was killed, or crashed, while it decoded a picture."""
        self._lost_decoders.labels(loss).inc()

    def claimed(self, delivery: Delivery) -> None:
        """Count a claimed step."""
        if delivery.attempt > 1:
            self._claimed_again.inc()

    def ended(self, delivery: Delivery, outcome: Outcome) -> None:
        """Count a step that ended here."""
        self._steps.labels(delivery.step.kind, outcome).inc()

    def committed(self, done: int, codes: Sequence[str], clock: ShardClock) -> None:
        """Count the images of a committed shard: `done` scored ones, and one error per code."""
        self._images.labels("scored").inc(done)
        self._images.labels("failed").inc(len(codes))
        for code, images in Tally(codes).items():
            self._errors.labels(code).inc(images)
        for phase, seconds in clock.seconds.items():
            self._seconds.labels(phase).observe(seconds)


class QueueDepth(Collector):
    """The state of the queue, which is the same at every worker."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def collect(self) -> Iterator[Metric]:
        """Yield depth, age and job states, or only that Redis does not answer."""
        try:
            depth = measure_depth(self._redis)
        except RedisError as error:
            logger.warning("metrics of the queue are missing: Redis does not answer: %s", error)
            depth = None
        yield from depth_metrics(depth)


@contextmanager
def serve_metrics(metrics: Metrics, redis: Redis, settings: Settings) -> Iterator[None]:
    """Answer `GET /metrics` while the block runs, if the settings name a port.

    Args:
        metrics: Counters of this process.
        redis: A client made with `PROMPT`, so that it gives up before Prometheus does.
        settings: They name the address.

    Raises:
        ProgramFailed: If the port is taken (code `address_in_use`).
    """
    host, port = settings.host, settings.worker_metrics_port
    if port is None:
        yield
        return
    ProcessCollector(registry=metrics.registry)
    PlatformCollector(registry=metrics.registry)
    metrics.registry.register(QueueDepth(redis))
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise ProgramFailed(
            f"Cannot listen on {host}:{port}: {error.strerror}. "
            "Choose another port: LOUPE_WORKER_METRICS_PORT.",
            code="address_in_use",
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
