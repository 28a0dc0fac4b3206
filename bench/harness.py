"""The benchmark harness: interleaved runs, ratios with targets, and the result table."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from loupe.cli.main import disable_telemetry
from loupe.errors import LoupeError
from loupe.settings import ENV_PREFIX

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A bound for a ratio. Create it with `at_least` or `at_most`."""

    bound: float
    is_maximum: bool

    def holds(self, ratio: float) -> bool:
        """Return whether `ratio` meets the target."""
        return ratio <= self.bound if self.is_maximum else ratio >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.is_maximum else '≥'} {self.bound:.2f}"


def at_least(bound: float) -> Target:
    """Return a lower bound, for ratios of speeds."""
    return Target(bound, is_maximum=False)


def at_most(bound: float) -> Target:
    """Return an upper bound, for ratios of times and counts of failures."""
    return Target(bound, is_maximum=True)


@dataclass(frozen=True)
class Row:
    """One line of the result table.

    Attributes:
        what: The measured quantity.
        loupe: Loupe's figures.
        peer: Name and figures of the program compared with.
        ratio: Loupe's figure over the peer's, or the figure itself if there is no peer.
        target: The required ratio, if there is one.
    """

    what: str
    loupe: str
    peer: str = "—"
    ratio: float | None = None
    target: Target | None = None

    @property
    def failed(self) -> bool:
        """True if the ratio misses its target."""
        return bool(self.target and self.ratio is not None and not self.target.holds(self.ratio))


def in_turns(runs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Interleave the runs, so that other work on the machine affects all of them alike.

    Args:
        runs: The runs by name. Each is called once more at the start, to warm up.
        rounds: Measured calls of each run.

    Returns:
        The results of each run, one per round.
    """
    for run in runs.values():
        run()
    results: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    return results


def seconds(run: Callable[[], object]) -> float:
    """Return the duration of a run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def per_second(count: int, run: Callable[[], object]) -> float:
    """Return the rate of a run that processes `count` items."""
    return count / seconds(run)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of interleaved runs."""
    return median(mine / other if other else inf for mine, other in zip(ours, theirs, strict=True))


def compare_rates(
    what: str, rates: Mapping[str, Sequence[float]], ours: str, theirs: str, target: Target | None
) -> Row:
    """Return a row that compares two rates in images per second."""
    figures = {name: f"{median(rates[name]):,.0f} images/s" for name in (ours, theirs)}
    ratio = median_ratio(rates[ours], rates[theirs])
    return Row(what, figures[ours], f"{theirs}\n{figures[theirs]}", ratio, target)


def show(rows: Sequence[Row], title: str) -> None:
    """Print the result table."""
    table = Table("", "Loupe", "compared with", "ratio", "target", title=title, show_lines=True)
    for row in rows:
        table.add_row(row.what, row.loupe, row.peer, _ratio(row), str(row.target or "—"))
    Console(highlight=False).print(table)


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return "—"
    colour = "red" if row.failed else "green" if row.target else "default"
    return f"[{colour}]{row.ratio:.2f}[/]"


def run_program(work: Callable[[], int]) -> int:
    """Run a benchmark or stress test with default settings.

    `LOUPE_…` variables are removed first: figures are comparable only with default settings, and
    no job may reach a queue that is in use.

    Returns:
        The exit code: that of `work`, 1 after a Loupe error, or 130 after Ctrl-C.
    """
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    disable_telemetry()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # run every `finally`
    try:
        return work()
    except LoupeError as error:
        print(error.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
