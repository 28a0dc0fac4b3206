"""Twice as many requests as the service can answer: as many as ever are to be answered, and soon, and the others refused."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

from bench import posts
from bench.h2load import closed_loop, offer
from bench.open_loop import Outcome
from bench.peers import LOUPE, serving
from bench.pictures import find_images
from bench.report import Row, at_least, at_most, median_ratio
from bench.wrk import in_words
from loupe.store import StoredModel

ROUNDS = 2
CAPACITY_CONNECTIONS = 256
CAPACITY_SECONDS = 15
OVERLOAD = 2  # times the capacity
OVERLOAD_SECONDS = 60
PEAK_SECONDS = 15
GOODPUT_TARGET = at_least(0.9)
TAIL_TARGET = at_most(3)


def measure(model: StoredModel) -> Iterator[Row]:
    """Goodput and the times of accepted requests, in turns where as much is offered as can be answered (the peak), and twice that.

    The capacity is what a closed loop gets answered; the peak is taken as the overload is, at an even pace on as many connections, so
    that nothing but the load differs.
    """
    post = posts.png(find_images(model, 1)[0])
    beyond = []
    with tempfile.TemporaryDirectory() as folder, serving([LOUPE], model, Path(folder)) as programs:
        port = programs[LOUPE].port
        closed_loop(port, post, CAPACITY_CONNECTIONS, 1)  # warms up
        capacity = closed_loop(port, post, CAPACITY_CONNECTIONS, CAPACITY_SECONDS)
        peaks = [offer(port, post, capacity.goodput, PEAK_SECONDS)]
        for _ in range(ROUNDS):
            beyond.append(offer(port, post, OVERLOAD * capacity.goodput, OVERLOAD_SECONDS))
            capacity = closed_loop(port, post, CAPACITY_CONNECTIONS, CAPACITY_SECONDS)
            peaks.append(offer(port, post, capacity.goodput, PEAK_SECONDS))
    what = f"{OVERLOAD} times the capacity for {OVERLOAD_SECONDS} s"
    goodput = median_ratio([each.goodput for each in beyond], _around([each.goodput for each in peaks]))
    peak_words = f"the capacity offered\n{in_words([each.load for each in peaks])}"
    yield Row(f"{what}: goodput", in_words([each.load for each in beyond]), peak_words, goodput, GOODPUT_TARGET)
    times = [each.percentile_ms(99) for each in beyond]
    tail = median_ratio(times, _around([each.percentile_ms(99) for each in peaks]))
    yield Row(f"{what}: p99 of the accepted", _statuses(beyond), "p99 at the capacity", tail, TAIL_TARGET)


def _around(peaks: Sequence[float]) -> list[float]:
    """For each run between two peaks their mean."""
    return [mean(pair) for pair in pairwise(peaks)]


def _statuses(outcomes: Sequence[Outcome]) -> str:
    """How many of each status there were in all runs together, those that are to be expected always."""
    counts: dict[int | str, int] = dict.fromkeys((200, 429, 503, 504), 0)
    for outcome in outcomes:
        for status, count in outcome.statuses.items():
            counts[status] = counts.get(status, 0) + count
    return "\n".join(f"{status}: {count:,}" for status, count in counts.items())
