"""What Prometheus sees of a worker: what this process has done, and how the queue stands that it shares with all others."""

import logging
import threading
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError
from redis.retry import Retry

from loupe.errors import ProgramFailed
from loupe.jobs import PRIORITIES
from loupe.runtime.redis_server import BACKOFF, HASTY
from loupe.settings import Settings
from worker.queue.claims import Delivery
from worker.queue.jobs import (
    WORKERS_GROUP,
    active_key,
    delayed_key,
    job_key,
    server_time,
    steps_key,
)

logger = logging.getLogger(__name__)

Phase = Literal["plan", "read", "score", "write"]
Outcome = Literal["done", "cancelled", "lost", "retried", "failed"]
KINDS = ("plan", "shard", "probe", "finish")  # of steps
# Prometheus waits for ten seconds at most, and a connection's retries multiply those of its commands.
PROMPT: dict[str, Any] = HASTY | {
    "retry": Retry(BACKOFF, 1),
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
}
SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


class ShardClock:
    """Seconds that one shard takes by phase, summed over all threads: two that read at once for a second have read for two."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._turn = threading.Lock()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """What is done in this block belongs to this phase."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        with self._turn:
            self.seconds[phase] += seconds


class Metrics:
    """The counters of one worker process, in a registry of its own."""

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
        self._seconds = Histogram(
            "loupe_worker_shard_seconds",
            "Where the time of a shard goes, summed over threads",
            ["phase"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Have what alerts look at there from the start: a series that begins with 1 has never grown for Prometheus."""
        for outcome in ("scored", "failed"):
            self._images.labels(outcome)
        for kind in KINDS:
            for ending in get_args(Outcome):
                self._steps.labels(kind, ending)

    def claimed(self, delivery: Delivery) -> None:
        """A step has come into this worker's hands."""
        if delivery.attempt > 1:
            self._claimed_again.inc()

    def ended(self, delivery: Delivery, outcome: Outcome) -> None:
        """A step has left this worker's hands."""
        self._steps.labels(delivery.step.kind, outcome).inc()

    def committed(self, done: int, codes: Sequence[str], clock: ShardClock) -> None:
        """A shard was committed with so many images scored, and one that could not be read for each of the errors' codes."""
        self._images.labels("scored").inc(done)
        self._images.labels("failed").inc(len(codes))
        for code, images in Tally(codes).items():
            self._errors.labels(code).inc(images)
        for phase, seconds in clock.seconds.items():
            self._seconds.labels(phase).observe(seconds)


class QueueDepth(Collector):
    """How the queue stands at the moment of asking: the same at each worker, so that one of them is enough to know it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def collect(self) -> Iterator[Metric]:
        """Depth, age and states of all jobs that have not ended; only that it is unknown while Redis does not answer."""
        try:
            places, states, age = self._look()
        except RedisError as error:
            logger.warning("the metrics of the queue are missing: Redis does not answer: %s", error)
            yield _reachable(0)
            return
        yield _reachable(1)
        steps = GaugeMetricFamily(
            "loupe_queue_steps", "Steps of all jobs, by where they are", labels=["place"]
        )
        oldest = GaugeMetricFamily(
            "loupe_queue_oldest_seconds", "How long the first of the waiting steps has waited"
        )
        by_state = GaugeMetricFamily(
            "loupe_queue_jobs", "Jobs that have not ended, by state", labels=["state"]
        )
        for place in ("waiting", "in_hand", "delayed"):
            steps.add_metric([place], places[place])
        for state in ("queued", "planning", "running", "finishing", "cancelling"):
            by_state.add_metric([state], states[state])
        oldest.add_metric([], age)
        yield from (steps, oldest, by_state)

    def _look(self) -> tuple[Tally[str], Tally[str], float]:
        job_ids = [
            job_id
            for priority in PRIORITIES
            for job_id in cast("list[str]", self._redis.lrange(active_key(priority), 0, -1))
        ]
        places: Tally[str] = Tally()
        states: Tally[str] = Tally()
        waiting: list[str] = []  # ids of messages, which begin with the milliseconds of their birth
        for job_id in job_ids:
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hget(job_key(job_id), "state")
                pipeline.xlen(steps_key(job_id))
                pipeline.xinfo_groups(steps_key(job_id))
                pipeline.zcard(delayed_key(job_id))
                state, length, groups, delayed = cast(Any, pipeline.execute(raise_on_error=False))
            if not isinstance(groups, list):  # the job has just ended, and its stream is gone
                continue
            group = next(group for group in groups if group["name"] == WORKERS_GROUP)
            states[state] += 1
            places["in_hand"] += group["pending"]
            places["waiting"] += length - group["pending"]
            places["delayed"] += delayed
            first: Any = self._redis.xrange(
                steps_key(job_id), min=f"({group['last-delivered-id']}", count=1
            )
            waiting += [message_id for message_id, _ in first]
        now = server_time(self._redis)
        born = min(
            (int(message_id.partition("-")[0]) / 1000 for message_id in waiting), default=now
        )
        return places, states, max(0.0, now - born)


def _reachable(value: int) -> Metric:
    return GaugeMetricFamily(
        "loupe_queue_reachable", "1 while Redis answers this worker", value=value
    )


@contextmanager
def exposed(metrics: Metrics, redis: Redis, settings: Settings) -> Iterator[None]:
    """Answer `GET /metrics` while the block lasts, if there is a port to do it at.

    Args:
        metrics: What this worker has done.
        redis: Where the queue is; a `PROMPT` client, which soon gives up.
        settings: Where to listen.

    Raises:
        ProgramFailed: If something else listens there.
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
