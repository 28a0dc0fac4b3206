"""`python -m bench [NAME…] [--plot docs/batching-benchmark.png]`: measure what is named, or everything."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from bench import (
    batches,
    batching,
    bulk,
    bulk_peers,
    jobs,
    lone,
    memory,
    networks,
    overload,
    photos,
    queue,
    service,
    start,
    swaps,
)
from bench.report import Row, show
from bench.tools import PACKAGES, find_tool
from loupe.cli import report_nothing
from loupe.errors import LoupeError
from loupe.settings import ENV_PREFIX
from loupe.store import StoredModel, find_model

Benchmarks: TypeAlias = dict[str, Callable[[StoredModel], Iterator[Row]]]
BENCHMARKS: Benchmarks = {
    "service": service.measure,
    "lone": lone.measure,
    "batches": batches.measure,
    "batching": batching.measure,
    "overload": overload.measure,
    "photos": photos.measure,
    "swaps": swaps.measure,
    "start": start.measure,
    "bulk": bulk.measure,
    "bulk-peers": bulk_peers.measure,
    "jobs": jobs.measure,
    "queue": queue.measure,
    "memory": memory.measure,
    "networks": networks.measure,
}
TOOLS = dict.fromkeys(("service", "lone", "batches", "batching", "photos"), "wrk") | {"overload": "h2load"}


def main() -> int:
    """Run the benchmarks; exit code 1 if there is no model, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Loupe beside its peers.")
    parser.add_argument("benchmarks", nargs="*", metavar="|".join(BENCHMARKS), help="default: all")
    parser.add_argument("--model", metavar="NAME:VERSION", help="what scores; default: the newest in the store")
    plot_help = (
        "a picture to draw the figures of batching in; their table goes into the page of the same name beside it"
    )
    parser.add_argument("--plot", type=Path, metavar="docs/batching-benchmark.png", help=plot_help)
    arguments = parser.parse_args()
    chosen: list[str] = arguments.benchmarks or list(BENCHMARKS)
    if unknown := set(chosen) - set(BENCHMARKS):
        parser.error(f"expected {', '.join(BENCHMARKS)}; received {', '.join(sorted(unknown))}")
    if arguments.plot is not None and "batching" not in chosen:
        parser.error("--plot draws the figures of batching, which is not among the benchmarks named")
    benchmarks: Benchmarks = {**BENCHMARKS, "batching": partial(batching.measure, page=arguments.plot)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through every `finally`

    def measure() -> int:
        model = find_model(arguments.model)
        print(f"measuring with {model.tag}; all of it takes half an hour")
        show([row for name in _possible(chosen) for row in benchmarks[name](model)])
        return 0

    return exit_code(measure)


def exit_code(work: Callable[[], int]) -> int:
    """What a program of this folder ends with: its work's own code, 1 after an error that Loupe names, 130 after Ctrl-C."""
    use_default_settings()
    report_nothing()
    try:
        return work()
    except LoupeError as error:
        print(error.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _possible(chosen: list[str]) -> list[str]:
    """Those of the benchmarks that have what they need."""
    missing = {tool for tool in sorted({TOOLS[name] for name in chosen if name in TOOLS}) if not find_tool(tool)}
    for tool in sorted(missing):
        skipped = [name for name in chosen if TOOLS.get(name) == tool]
        print(f"{', '.join(skipped)}: skipped for want of {tool} (apt install {PACKAGES[tool]})")
    return [name for name in chosen if TOOLS.get(name) not in missing]


def use_default_settings() -> None:
    """Figures are comparable only with the settings that everybody has, and no job may reach a queue in use."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]


if __name__ == "__main__":
    sys.exit(main())
