"""The load generator `wrk`: requests as fast as they are answered."""

import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.posts import Post

SCRIPT = Path(__file__).with_name("post.lua")
TIMEOUT_SECONDS = 15  # longer than Loupe lets anybody wait


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw: good answers per second, percentiles of the times of all answers, and requests without a good one."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def run_wrk(url: str, post: Post, connections: int, seconds: float) -> Load:
    """Make one request again and again for a while.

    Args:
        url: Of the service, without a slash at the end.
        post: The request.
        connections: Requests under way at any time; all from one thread.
        seconds: How long; whole ones.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(post.body)
        body.flush()
        headers = [word for header in post.headers.items() for word in header]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", f"{TIMEOUT_SECONDS}s"]
        command += ["-s", str(SCRIPT), url + post.route, "--", body.name, *headers]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seen: dict[str, int] = json.loads(output.splitlines()[-1])
    return Load(
        requests_per_second=seen["good"] / (seen["microseconds"] / 1e6),
        p50_ms=seen["p50"] / 1e3 or math.inf,  # wrk says 0 where there was no answer
        p99_ms=seen["p99"] / 1e3 or math.inf,
        errors=seen["errors"],
    )


def middle(loads: Sequence[Load]) -> Load:
    """The medians of many runs, and all their errors."""
    return Load(
        median(load.requests_per_second for load in loads),
        median(load.p50_ms for load in loads),
        median(load.p99_ms for load in loads),
        sum(load.errors for load in loads),
    )


def in_words(loads: Sequence[Load], images_per_request: int = 1) -> str:
    """The medians of many runs, for a table."""
    load = middle(loads)
    unit = "/s" if images_per_request == 1 else " images/s"
    rate = f"{load.requests_per_second * images_per_request:,.0f}{unit}, {load.errors} errors"
    return f"{rate}\np50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms"
