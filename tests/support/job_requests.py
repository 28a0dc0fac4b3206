"""Jobs of tests."""

import itertools
from pathlib import Path

import pytest
from redis import Redis

from loupe.jobs import DEFAULT_OPTIONS, Priority, ScoringOptions
from loupe.settings import HttpsAccess, Settings
from tests.support.programs import until
from worker.queue import submission
from worker.queue.claims import Claims, Delivery
from worker.queue.jobs import Jobs
from worker.queue.keys import job_key
from worker.queue.records import Job, JobRequest
from worker.scoring.consumer import Consumer

_outputs = (f"/out-{number}" for number in itertools.count())


def new_request(source: str = "/images", output: str | None = None) -> JobRequest:
    """Return a request that is never scored, with a unique output unless one is given."""
    return JobRequest(
        source=source,
        output=output or next(_outputs),
        model="digits:1",
        model_digest="0",
        shard_images=10,
    )


def submit(
    jobs: Jobs,
    source: str | Path,
    output: str | Path,
    model: str | None,
    shard_images: int,
    options: ScoringOptions = DEFAULT_OPTIONS,
    *,
    again: bool = False,
    priority: Priority = "normal",
    max_in_flight: int | None = None,
    https: HttpsAccess = "none",
) -> Job:
    """Submit a job as `loupe score` does."""
    prepared = submission.prepare(
        jobs.find,
        source,
        output,
        model,
        shard_images,
        options,
        again=again,
        https=https,
    )
    return submission.submit(jobs, prepared, priority=priority, max_in_flight=max_in_flight)


def fail_after_one_shard(redis: Redis, job_id: str, settings: Settings) -> Job:
    """Score the first shard of a job, and delete its source, so that the next one fails."""
    jobs, claims = Jobs(redis), Claims(redis, "a", lease_seconds=30.0, max_attempts=1)
    claim = claims.claim

    def claimed() -> Delivery | None:
        delivery = claim()
        if delivery is not None and delivery.step.name == "shard-1":
            until(lambda: redis.hget(job_key(job_id), "done") != "0")
            Path(jobs.get(job_id).source).unlink()
        return delivery

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "claim", claimed)
        Consumer(jobs, claims, settings).run(burst=True)
    return jobs.get(job_id)
