"""Requests for jobs that are never scored."""

import itertools

from worker.queue.jobs import JobRequest

_outputs = (f"/out-{number}" for number in itertools.count())


def new_request(source: str = "/images", output: str | None = None) -> JobRequest:
    """Return a request with a unique output, unless one is given."""
    return JobRequest(
        source=source,
        output=output or next(_outputs),
        model="digits:1",
        model_digest="0",
        shard_images=10,
    )
