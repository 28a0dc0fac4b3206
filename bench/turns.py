"""Runs made in turns: other work on the machine then disturbs all alike."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def in_turns(runs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each run returned, round by round, after one more round that only warms up."""
    for run in runs.values():
        run()
    seen: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seen[name].append(run())
    return seen


def seconds(run: Callable[[], object]) -> float:
    """How long a run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def per_second(count: int, run: Callable[[], object]) -> float:
    """How many of `count` things a run does in a second."""
    return count / seconds(run)
