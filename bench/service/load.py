"""Closed-loop load with wrk, and the installation of load generators."""

import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType

from bench.inputs import Post

SCRIPT = Path(__file__).with_name("post.lua")
TIMEOUT_SECONDS = 15  # above Loupe's own timeout
DEBIAN_PACKAGES = MappingProxyType({"wrk": "wrk", "h2load": "nghttp2-client"})


@dataclass(frozen=True)
class Load:
    """The result of one load run.

    Attributes:
        requests_per_second: Rate of successful responses.
        p50_ms: Median response time.
        p99_ms: 99th percentile of response times.
        errors: Requests without a successful response.
        requests: Successful responses.
    """

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    requests: int = 0


def run_wrk(url: str, post: Post, connections: int, seconds: int) -> Load:
    """Repeat one request on kept connections, each as soon as the previous one is answered.

    Args:
        url: The service, without a trailing slash.
        post: The request.
        connections: Number of connections, all from one thread.
        seconds: Duration.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(post.body)
        body.flush()
        headers = [word for header in post.headers.items() for word in header]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
        command += ["--timeout", f"{TIMEOUT_SECONDS}s", "-s", str(SCRIPT), url + post.route]
        command += ["--", body.name, *headers]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, int] = json.loads(output.splitlines()[-1])
    return Load(
        requests_per_second=result["good"] / (result["microseconds"] / 1e6),
        p50_ms=result["p50"] / 1e3 or math.inf,  # wrk reports 0 without any response
        p99_ms=result["p99"] / 1e3 or math.inf,
        errors=result["errors"],
        requests=result["good"],
    )


def combine(loads: Sequence[Load]) -> Load:
    """Return medians of rates and times, and sums of counts."""
    return Load(
        median(load.requests_per_second for load in loads),
        median(load.p50_ms for load in loads),
        median(load.p99_ms for load in loads),
        sum(load.errors for load in loads),
        sum(load.requests for load in loads),
    )


def describe(loads: Sequence[Load], images_per_request: int = 1) -> str:
    """Format the combined runs for the result table."""
    load = combine(loads)
    unit = "requests/s" if images_per_request == 1 else "images/s"
    rate = f"{load.requests_per_second * images_per_request:,.0f} {unit}, {load.errors} errors"
    return f"{rate}\np50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms"


def find_tool(name: str) -> bool:
    """Return whether a load generator is installed. On Debian, try to install it as root."""
    is_root = os.geteuid() == 0
    if shutil.which(name) is None and is_root and shutil.which("apt-get") is not None:
        package = DEBIAN_PACKAGES[name]
        print(f"Installing {name} (apt-get install {package}).")
        for verb in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            command = ["apt-get", "--quiet", "--quiet", *verb]
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    return shutil.which(name) is not None
