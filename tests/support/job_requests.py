"""Requests for jobs that are never scored."""

import itertools

from worker.queue.jobs import Options, Request

_outputs = (f"/out-{number}" for number in itertools.count())


def new_request(source: str = "/images", output: str | None = None) -> Request:
    """One of its own, unless the output says which."""
    return Request(source, output or next(_outputs), "digits:1", "0", 10, Options())
