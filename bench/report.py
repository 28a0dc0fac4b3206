"""What a benchmark found, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Target:
    """What a ratio is to be, as `at_least` and `at_most` make it."""

    bound: float
    most: bool

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return ratio <= self.bound if self.most else ratio >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.bound:.2f}"


def at_least(bound: float) -> Target:
    """For ratios of speeds."""
    return Target(bound, most=False)


def at_most(bound: float) -> Target:
    """For ratios of times, and for counts of what should not be."""
    return Target(bound, most=True)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: What was measured.
        loupe: Loupe's figures.
        peer: The other's name and figures.
        ratio: Loupe's figure over the other's, the median of the runs; `None` where nothing is compared.
        target: What the ratio is to be; `None` where that is open.
    """

    what: str
    loupe: str
    peer: str = "—"
    ratio: float | None = None
    target: Target | None = None


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of runs made in turns: what disturbs the machine for a while disturbs both."""
    return median(mine / other if other else inf for mine, other in zip(ours, theirs, strict=True))


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(
        "",
        "Loupe",
        "compared with",
        "ratio",
        "target",
        title="Loupe's figure over the other's, median of runs in turns: speeds where ≥ is asked, times where ≤ is",
        show_lines=True,
    )
    for row in rows:
        table.add_row(row.what, row.loupe, row.peer, _ratio(row), str(row.target or "—"))
    Console(highlight=False).print(table)


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return "—"
    if row.target is None:
        return f"{row.ratio:.2f}"
    return f"[{'green' if row.target.holds(row.ratio) else 'red'}]{row.ratio:.2f}[/]"
