"""The load generator `h2load`: so many requests a second, whatever becomes of them, at little cost to the machine."""

import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from bench.open_loop import NO_ANSWER, Answer, Outcome
from bench.posts import Post

CONNECTIONS = 1024
STEP_SECONDS = 0.01  # between the moments at which connections begin, so that their requests are spread


def offer(port: int, post: Post, per_second: float, seconds: float) -> Outcome:
    """Make requests at an even pace. The time of an answer counts from the moment its request is sent."""
    at_once = math.ceil(per_second * STEP_SECONDS)
    pace = ["-n", str(round(per_second * seconds)), "-c", str(CONNECTIONS), f"--rps={per_second / CONNECTIONS}"]
    return _run(port, post, [*pace, "-r", str(at_once), f"--rate-period={STEP_SECONDS * 1e3:.0f}ms"], seconds)


def closed_loop(port: int, post: Post, connections: int, seconds: int) -> Outcome:
    """Make a request as soon as the one before it is answered, on so many connections."""
    return _run(port, post, ["-D", str(seconds), "-c", str(connections)], seconds)


def _run(port: int, post: Post, pace: list[str], seconds: float) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(post.body)
        headers = [word for header in post.headers.items() for word in ("-H", ": ".join(header))]
        command = ["h2load", "--h1", "-t", "1", *pace, "-d", str(body), f"--log-file={log}", *headers]
        subprocess.run([*command, f"http://127.0.0.1:{port}{post.route}"], check=True, stdout=subprocess.DEVNULL)
        begun, statuses, took = np.loadtxt(log, dtype=np.int64, ndmin=2).T  # microseconds; 0 or less where none came
    due = (begun - begun.min()) / 1e6
    done = due + took / 1e6
    rows = zip(statuses.tolist(), due.tolist(), done.tolist(), strict=True)
    return Outcome(tuple(Answer(status if status > 0 else NO_ANSWER, *times) for status, *times in rows), seconds)
