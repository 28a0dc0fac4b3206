"""`python -m bench [NAME…] [--plot docs/batching-benchmark.png]`: run some or all benchmarks."""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from bench.bulk import engines, jobs, queue, scorer, sources
from bench.bulk import peers as bulk_peers
from bench.harness import Row, run_program, show
from bench.inputs import benchmark_model
from bench.service import batching, overload, payloads, processes, single
from bench.service.load import DEBIAN_PACKAGES, find_tool
from loupe.models.store import StoredModel

Benchmark: TypeAlias = Callable[[StoredModel], Iterator[Row]]
BENCHMARKS: dict[str, Benchmark] = {
    "service": single.measure,
    "peers": single.measure_peers,
    "batches": payloads.measure_batches,
    "photos": payloads.measure_photos,
    "batching": batching.measure,
    "overload": overload.measure,
    "processes": processes.measure,
    "bulk": sources.measure,
    "bulk-peers": bulk_peers.measure,
    "scorer": scorer.measure,
    "engines": engines.measure,
    "jobs": jobs.measure,
    "memory": jobs.measure_memory,
    "queue": queue.measure,
}
WRK, H2LOAD = "wrk", "h2load"
TOOLS = dict.fromkeys(("service", "peers", "batches", "photos", "batching", "processes"), WRK)
TOOLS |= {"overload": H2LOAD}


def main() -> int:
    """Parse the command line and run the benchmarks. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Loupe.")
    parser.add_argument("names", nargs="*", metavar="|".join(BENCHMARKS), help="default: all")
    parser.add_argument(
        "--model",
        metavar="NAME:VERSION",
        help="model to measure with; default: the newest cnn-small, or one trained for this run",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="docs/batching-benchmark.png",
        help="file for the chart of `batching`; updates the table in the .md file next to it",
    )
    arguments = parser.parse_args()
    names: list[str] = arguments.names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    if arguments.plot is not None and "batching" not in names:
        parser.error("--plot needs the benchmark `batching`")
    benchmarks: dict[str, Benchmark] = {
        **BENCHMARKS,
        "batching": partial(batching.measure, plot=arguments.plot),
    }

    def measure() -> int:
        available = _available(names)
        with benchmark_model(arguments.model) as model:
            print(f"Measuring {', '.join(available)} with {model.tag}.")
            rows = [row for name in available for row in benchmarks[name](model)]
        show(rows, "Ratios are Loupe over the other, medians of interleaved runs")
        return 0

    return run_program(measure)


def _available(names: list[str]) -> list[str]:
    """Return the benchmarks whose load generator is installed."""
    needed = {TOOLS[name] for name in names if name in TOOLS}
    missing = {tool for tool in sorted(needed) if not find_tool(tool)}
    for name in names:
        if TOOLS.get(name) in missing:
            tool = TOOLS[name]
            print(f"{name}: skipped, {tool} is missing (apt install {DEBIAN_PACKAGES[tool]})")
    return [name for name in names if TOOLS.get(name) not in missing]


if __name__ == "__main__":
    sys.exit(main())
