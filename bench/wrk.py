"""The load generator `wrk`: find it, install it where that is one command, run it."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("post.lua")


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw. `p50_ms` and `p99_ms` are of its answers' times."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def find_wrk() -> bool:
    """Whether wrk is there, after an attempt to install it as root on Debian."""
    if shutil.which("wrk") is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        print("installing wrk (apt-get install wrk)")
        for verb in (["update"], ["install", "--yes", "--no-install-recommends", "wrk"]):
            subprocess.run(["apt-get", "--quiet", "--quiet", *verb], check=False, stdout=subprocess.DEVNULL)
    return shutil.which("wrk") is not None


def run_wrk(url: str, image: Path, connections: int, seconds: int) -> Load:
    """Post one file to a URL for a while.

    Args:
        url: Where to.
        image: A PNG file.
        connections: Requests under way at any time; all from one thread.
        seconds: How long.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT), url, "--", str(image)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seen: dict[str, int] = json.loads(output.splitlines()[-1])
    return Load(
        requests_per_second=seen["requests"] / (seen["microseconds"] / 1e6),
        p50_ms=seen["p50"] / 1e3,
        p99_ms=seen["p99"] / 1e3,
        errors=seen["errors"],
    )
