"""Several processes of the service: their CPU time per request, and their memory."""

from collections.abc import Iterator
from functools import partial
from statistics import median

import psutil

from bench.harness import Row, at_most, in_turns, median_ratio
from bench.inputs import Post, find_images, png_post
from bench.service.load import run_wrk
from bench.service.servers import LOUPE, THREE_PROCESSES, TWO_PROCESSES, RunningServer, serving
from loupe.models.store import StoredModel

ROUNDS = 11
ROUND_SECONDS = 1
CONNECTIONS = 16
CPU_TARGET = at_most(1.1)
MEMORY_TARGET = at_most(90)  # MB
MEGABYTE = 10**6


def measure(model: StoredModel) -> Iterator[Row]:
    """Compare the costs of one and two processes, and the memory of two and three."""
    post = png_post(find_images(model, 1)[0])
    with serving([LOUPE, TWO_PROCESSES, THREE_PROCESSES], model) as servers:
        runs = {
            f"{name}, {connections}": partial(_cpu_us, servers[name], post, connections)
            for name, connections in (
                (LOUPE, CONNECTIONS),
                (TWO_PROCESSES, CONNECTIONS),
                (TWO_PROCESSES, 2 * CONNECTIONS),
                (THREE_PROCESSES, 3 * CONNECTIONS),
            )
        }
        costs = in_turns(runs, ROUNDS)
        memory = {name: _memory(server) for name, server in servers.items()}
    one = costs[f"{LOUPE}, {CONNECTIONS}"]
    # Half of the requests in each process make smaller batches, which cost more.
    for connections, target in ((2 * CONNECTIONS, CPU_TARGET), (CONNECTIONS, None)):
        two = costs[f"{TWO_PROCESSES}, {connections}"]
        yield Row(
            f"two processes, PNG over HTTP, {connections} at a time: CPU per request",
            f"{median(two):,.0f} µs",
            f"one process, {CONNECTIONS} at a time\n{median(one):,.0f} µs",
            median_ratio(two, one),
            target,
        )
    further = memory[THREE_PROCESSES] - memory[TWO_PROCESSES]
    figures = ", ".join(f"{each:,.0f}" for each in memory.values())
    yield Row(
        "memory of each further process, shared pages counted in parts",
        f"{further:,.0f} MB",
        f"one, two and three processes with their supervisor: {figures} MB",
        further,
        MEMORY_TARGET,
    )


def _cpu_us(server: RunningServer, post: Post, connections: int) -> float:
    before = server.cpu_seconds()
    load = run_wrk(server.url, post, connections, ROUND_SECONDS)
    return (server.cpu_seconds() - before) / max(1, load.requests) * 1e6


def _memory(server: RunningServer) -> float:
    """Return the memory of all its processes in MB."""
    process = psutil.Process(server.program.process.pid)
    all_processes = (process, *process.children(recursive=True))
    return sum(each.memory_full_info().pss for each in all_processes) / MEGABYTE
