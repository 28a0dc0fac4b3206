"""Overload: twice as many requests as the service can answer.

Two kinds of clients send them. Patient ones pause after a refusal as long as `Retry-After` says,
as Loupe's client does. At the capacity, bursts are refused as well, and the pauses make the offered
rate smaller, so the same clients at the capacity are what they are compared with. Impatient ones
(h2load) keep their pace whatever they get, so the service refuses several thousand requests per
second, and spends on that the time that is missing for answers: even an empty app on uvicorn takes
some 40 µs for each.
"""

import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np

from bench.harness import Row, at_least, at_most, median_ratio
from bench.inputs import Post, find_images, png_post
from bench.service.load import describe
from bench.service.open_loop import (
    NO_RESPONSE,
    Outcome,
    Result,
    run_closed_loop,
    run_patient,
)
from bench.service.servers import LOUPE, serving
from loupe.models.store import StoredModel

ROUNDS = 2
CAPACITY_CONNECTIONS = 256
CAPACITY_SECONDS = 10
OVERLOAD = 2  # offered rate over capacity
OVERLOAD_SECONDS = 30
PEAK_SECONDS = 10
GOODPUT_TARGET = at_least(0.85)
TAIL_TARGET = at_most(2)
OFFER_CONNECTIONS = 1024
RAMP_SECONDS = 0.01  # between groups of new connections, to spread their requests


@dataclass(frozen=True)
class Clients:
    """A kind of clients.

    Attributes:
        name: How the table calls them.
        closed_loop: Sends each request as soon as the previous one on its connection is answered.
        offer: Sends requests at an even pace.
    """

    name: str
    closed_loop: Callable[[int, Post, float], Outcome]
    offer: Callable[[int, Post, float, float], Outcome]


def measure(model: StoredModel) -> Iterator[Row]:
    """Compare goodput and p99 at twice the capacity with those at the capacity.

    A closed loop finds the capacity. Both loads then offer requests at an even pace on the same
    number of connections, so that they differ in nothing but the rate.
    """
    post = png_post(find_images(model, 1)[0])
    with serving([LOUPE], model) as servers:
        for clients in KINDS:
            yield from _measure(clients, servers[LOUPE].port, post)


def _measure(clients: Clients, port: int, post: Post) -> Iterator[Row]:
    overloads = []
    clients.closed_loop(port, post, 1)  # warms up
    capacity = clients.closed_loop(port, post, CAPACITY_SECONDS).goodput
    peaks = [clients.offer(port, post, capacity, PEAK_SECONDS)]
    for _ in range(ROUNDS):
        overloads.append(clients.offer(port, post, OVERLOAD * capacity, OVERLOAD_SECONDS))
        capacity = clients.closed_loop(port, post, CAPACITY_SECONDS).goodput
        peaks.append(clients.offer(port, post, capacity, PEAK_SECONDS))
    what = f"{OVERLOAD} times the capacity for {OVERLOAD_SECONDS} s, {clients.name}"
    goodputs = [each.goodput for each in overloads]
    ratio = median_ratio(goodputs, _neighbours([each.goodput for each in peaks]))
    peer = f"at the capacity\n{describe([each.load for each in peaks])}"
    loads = [each.load for each in overloads]
    yield Row(f"{what}: goodput", describe(loads), peer, ratio, GOODPUT_TARGET)
    times = [each.percentile_ms(99) for each in overloads]
    ratio = median_ratio(times, _neighbours([each.percentile_ms(99) for each in peaks]))
    statuses = _format_statuses(overloads)
    yield Row(f"{what}: p99 of accepted", statuses, "p99 at the capacity", ratio, TAIL_TARGET)


def _neighbours(peaks: Sequence[float]) -> list[float]:
    """Return, for each overload run, the mean of the peaks before and after it."""
    return [mean(pair) for pair in pairwise(peaks)]


def _format_statuses(outcomes: Sequence[Outcome]) -> str:
    counts: dict[int | str, int] = dict.fromkeys((200, 429, 503, 504), 0)
    for outcome in outcomes:
        for status, count in outcome.statuses.items():
            counts[status] = counts.get(status, 0) + count
    return "\n".join(f"{status}: {count:,}" for status, count in counts.items())


def _offer(port: int, post: Post, per_second: float, seconds: float) -> Outcome:
    """Send requests at an even pace. Response times count from the moment of sending."""
    options = ["-n", str(round(per_second * seconds)), "-c", str(OFFER_CONNECTIONS)]
    options += [f"--rps={per_second / OFFER_CONNECTIONS}"]
    options += ["-r", str(math.ceil(per_second * RAMP_SECONDS))]
    options += [f"--rate-period={RAMP_SECONDS * 1e3:.0f}ms"]
    return _run_h2load(port, post, options, seconds)


def _closed_loop(port: int, post: Post, seconds: float) -> Outcome:
    """Send each request as soon as the previous one on its connection is answered."""
    options = ["-D", f"{seconds:.0f}", "-c", str(CAPACITY_CONNECTIONS)]
    return _run_h2load(port, post, options, seconds)


def _run_h2load(port: int, post: Post, options: Sequence[str], seconds: float) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(post.body)
        headers = [word for header in post.headers.items() for word in ("-H", ": ".join(header))]
        command = ["h2load", "--h1", "-t", "1", *options, "-d", str(body), f"--log-file={log}"]
        command += [*headers, f"http://127.0.0.1:{port}{post.route}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        # Microseconds; the status is 0 or less for requests without a response.
        started, statuses, durations = np.loadtxt(log, dtype=np.int64, ndmin=2).T
    due = (started - started.min()) / 1e6
    done = due + durations / 1e6
    rows = zip(statuses.tolist(), due.tolist(), done.tolist(), strict=True)
    results = (Result(code if code > 0 else NO_RESPONSE, *times) for code, *times in rows)
    return Outcome(tuple(results), seconds)


def _patient_closed_loop(port: int, post: Post, seconds: float) -> Outcome:
    return run_closed_loop(port, post, CAPACITY_CONNECTIONS, seconds)


KINDS = (
    Clients("patient clients", _patient_closed_loop, run_patient),
    Clients("impatient clients", _closed_loop, _offer),
)
