"""How much work is in the queue, for metrics and for what starts workers."""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from redis import Redis

from loupe.jobs import PRIORITIES
from worker.queue.keys import WORKERS_GROUP, active_key, job_key, server_time, waiting_key

PLACES = ("waiting", "in_hand", "delayed")
STATES = ("queued", "planning", "running", "finishing", "cancelling")
MAX_INSPECTED = 100  # jobs in one round trip


@dataclass(frozen=True)
class Depth:
    """The work in the queue at one moment.

    Attributes:
        steps: Steps of all jobs, by where they are: one of `PLACES`.
        jobs: Jobs that have not ended, by state: one of `STATES`.
        oldest_seconds: How long the first of the waiting steps has waited.
    """

    steps: Mapping[str, int]
    jobs: Mapping[str, int]
    oldest_seconds: float


def measure_depth(redis: Redis) -> Depth:
    """Count steps by place and jobs by state, and find the oldest waiting step.

    It takes a few round trips for each hundred jobs that have started.
    """
    steps: Tally[str] = Tally(dict.fromkeys(PLACES, 0))
    jobs: Tally[str] = Tally(dict.fromkeys(STATES, 0))
    with redis.pipeline(transaction=False) as pipeline:
        for priority in PRIORITIES:
            pipeline.lrange(active_key(priority), 0, -1)
            pipeline.llen(waiting_key(priority))
            pipeline.lindex(waiting_key(priority), 0)
        found = pipeline.execute()
    jobs["queued"] = steps["waiting"] = sum(found[1::3])
    started = [job_id for active in found[::3] for job_id in active]
    lasts = dict.fromkeys(filter(None, found[2::3]), "-")  # delivered messages
    for start in range(0, len(started), MAX_INSPECTED):
        inspected = _inspect_jobs(redis, started[start : start + MAX_INSPECTED])
        for job_id, (state, length, groups, delayed) in inspected.items():
            if not isinstance(groups, list):  # the job has just ended
                continue
            group = next(group for group in groups if group["name"] == WORKERS_GROUP)
            jobs[state] += 1
            steps["in_hand"] += group["pending"]
            steps["waiting"] += max(0, length - group["pending"])
            steps["delayed"] += delayed
            lasts[job_id] = f"({group['last-delivered-id']}"
    return Depth(steps, jobs, _age(redis, lasts))


def _inspect_jobs(redis: Redis, job_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Return state, length of the stream, its groups, and delayed steps by job."""
    with redis.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.hget(job_key(job_id), "state")
            pipeline.xlen(job_key(job_id, "steps"))
            pipeline.xinfo_groups(job_key(job_id, "steps"))
            pipeline.zcard(job_key(job_id, "delayed"))
        found = iter(pipeline.execute(raise_on_error=False))
    return dict(zip(job_ids, zip(found, found, found, found, strict=True), strict=True))


def _age(redis: Redis, lasts: Mapping[str, str]) -> float:
    """Return how long the oldest step waits after the last delivered message of each job."""
    with redis.pipeline(transaction=False) as pipeline:
        for job_id, last in lasts.items():
            pipeline.xrange(job_key(job_id, "steps"), min=last, count=1)
        firsts = pipeline.execute()
    now = server_time(redis)
    born = [int(first[0][0].partition("-")[0]) / 1000 for first in firsts if first]  # ids in ms
    return max(0.0, now - min(born, default=now))


def depth_metrics(depth: Depth | None) -> Iterator[Metric]:
    """Yield depth, age and job states, or only that Redis does not answer."""
    yield GaugeMetricFamily(
        "loupe_queue_reachable", "1 while Redis answers", value=int(depth is not None)
    )
    if depth is None:
        return
    steps = GaugeMetricFamily(
        "loupe_queue_steps", "Steps of all jobs, by where they are", labels=["place"]
    )
    jobs = GaugeMetricFamily(
        "loupe_queue_jobs", "Jobs that have not ended, by state", labels=["state"]
    )
    for place in PLACES:
        steps.add_metric([place], depth.steps[place])
    for state in STATES:
        jobs.add_metric([state], depth.jobs[state])
    yield from (steps, jobs)
    yield GaugeMetricFamily(
        "loupe_queue_oldest_seconds",
        "How long the first of the waiting steps has waited",
        value=depth.oldest_seconds,
    )
