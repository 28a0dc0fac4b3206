"""Single PNGs over HTTP: Loupe compared with a bare app and with other model servers."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import truediv
from statistics import median, quantiles

from bench.harness import Row, Target, at_least, at_most, in_turns, median_ratio
from bench.inputs import Post, find_images, png_post
from bench.service.load import Load, describe, run_wrk
from bench.service.servers import (
    BARE,
    BATCHABLE,
    KERAS,
    LITSERVE,
    LOUPE,
    TWO_SERVICES,
    RunningServer,
    serving,
)
from loupe.models.store import StoredModel

# Short rounds, so that both servers meet the same other work on the machine.
ROUNDS = 11
ROUND_SECONDS = 1
# Connections: targets for CPU time per request and for requests per second, Loupe over bare app.
TARGETS: Mapping[int, tuple[Target, Target | None]] = {
    1: (at_most(1.35), None),
    4: (at_most(1.1), at_least(0.8)),
    16: (at_most(0.9), at_least(1.0)),
    64: (at_most(0.95), None),
}
PEER_CONNECTIONS = 16
TAIL_TARGET = at_most(3)


@dataclass(frozen=True)
class Cost:
    """A load run and the server's CPU time.

    Attributes:
        load: The load run.
        cpu_us: Microseconds of user and system time per request, over all server processes.
    """

    load: Load
    cpu_us: float


def measure(model: StoredModel) -> Iterator[Row]:
    """Compare CPU time per request and requests per second with the bare app."""
    post = png_post(find_images(model, 1)[0])
    with serving([LOUPE, BARE], model) as servers, _apart(servers):
        for connections, (cpu_target, rate_target) in TARGETS.items():
            runs = {
                name: partial(_run, server, post, connections) for name, server in servers.items()
            }
            costs = in_turns(runs, ROUNDS)
            what = f"PNG over HTTP, {connections} at a time"
            yield _compare_cpu(f"{what}: CPU per request", costs, cpu_target)
            loads = {name: [cost.load for cost in results] for name, results in costs.items()}
            yield _compare_rates(f"{what}: requests/s", loads, BARE, rate_target)
            if connections == PEER_CONNECTIONS:
                tail = median(load.p99_ms / load.p50_ms for load in loads[LOUPE])
                yield Row(f"{what}: p99 over p50", describe(loads[LOUPE]), "—", tail, TAIL_TARGET)


@contextmanager
def _apart(servers: Mapping[str, RunningServer]) -> Iterator[None]:
    """Keep the load generator and the event loops of the servers on different cores.

    Otherwise the system moves them together and apart, and their costs change by a fifth: on one
    core, requests arrive in groups, because the generator runs only while the server waits.
    """
    if sys.platform != "linux" or len(cores := sorted(os.sched_getaffinity(0))) < 2:
        yield
        return
    for server in servers.values():
        os.sched_setaffinity(server.program.process.pid, cores[:-1])
    os.sched_setaffinity(0, cores[-1:])  # wrk inherits it
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _run(server: RunningServer, post: Post, connections: int) -> Cost:
    before = server.cpu_seconds()
    load = run_wrk(server.url, post, connections, ROUND_SECONDS)
    return Cost(load, (server.cpu_seconds() - before) / max(1, load.requests) * 1e6)


def _compare_cpu(what: str, costs: Mapping[str, list[Cost]], target: Target) -> Row:
    ours, theirs = ([cost.cpu_us for cost in costs[name]] for name in (LOUPE, BARE))
    low, _, high = quantiles(map(truediv, ours, theirs), n=4)
    spread = f"half of the ratios: {low:.2f} to {high:.2f}"
    peer = f"{BARE}\n{median(theirs):,.0f} µs"
    return Row(what, f"{median(ours):,.0f} µs\n{spread}", peer, median_ratio(ours, theirs), target)


def _compare_rates(
    what: str, loads: Mapping[str, list[Load]], peer: str, target: Target | None
) -> Row:
    ours, theirs = ([load.requests_per_second for load in loads[name]] for name in (LOUPE, peer))
    figures = f"{peer}\n{describe(loads[peer])}"
    return Row(what, describe(loads[LOUPE]), figures, median_ratio(ours, theirs), target)


@dataclass(frozen=True)
class Contest:
    """Servers that take turns with Loupe.

    Attributes:
        targets: Loupe's required speed over each server's.
        rounds: Number of rounds.
        seconds: Duration of a run.
        rest_seconds: Pause after a run, in which a slow server finishes abandoned requests.
    """

    targets: Mapping[str, Target]
    rounds: int = 12
    seconds: int = 1
    rest_seconds: float = 0.0


CONTESTS = (
    Contest({BATCHABLE: at_least(1.15), TWO_SERVICES: at_least(5)}),
    Contest({LITSERVE: at_least(2)}),  # alone, since its worker is busy even when idle
    Contest({KERAS: at_least(70)}, rounds=3, seconds=4, rest_seconds=2.0),
)


def measure_peers(model: StoredModel) -> Iterator[Row]:
    """Compare requests per second with other model servers."""
    post = png_post(find_images(model, 1)[0])
    for contest in CONTESTS:
        names = [LOUPE, *contest.targets]
        with serving(names, model) as servers:
            if len(servers) == 1:  # no peer is installed
                continue
            runs: dict[str, Callable[[], Load]] = {
                name: partial(_run_contest, contest, server, post)
                for name, server in servers.items()
            }
            loads = in_turns(runs, contest.rounds)
        what = f"PNG over HTTP, {PEER_CONNECTIONS} at a time"
        for peer, target in contest.targets.items():
            if peer in loads:
                yield _compare_rates(what, loads, peer, target)


def _run_contest(contest: Contest, server: RunningServer, post: Post) -> Load:
    load = run_wrk(server.url, post, PEER_CONNECTIONS, contest.seconds)
    time.sleep(contest.rest_seconds)
    return load
