"""Jobs of tests."""

import itertools
from pathlib import Path

from loupe.jobs import DEFAULT_OPTIONS, Priority, ScoringOptions
from loupe.settings import HttpsAccess
from worker.queue import submission
from worker.queue.jobs import Jobs
from worker.queue.records import Job, JobRequest

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
