"""What a benchmark found, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: What was measured.
        loupe: Loupe's figures.
        peer: The other's name and figures.
        ratio: Loupe's speed over the other's, the median of the runs; `None` where nothing is compared.
        target: The least ratio that is good enough; `None` where there is none.
    """

    what: str
    loupe: str
    peer: str = "—"
    ratio: float | None = None
    target: float | None = None


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of runs made in turns: what disturbs the machine for a while disturbs both."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(
        "",
        "Loupe",
        "compared with",
        "ratio",
        "target",
        title="Loupe's speed over the other's, median of runs in turns",
        show_lines=True,
    )
    for row in rows:
        table.add_row(row.what, row.loupe, row.peer, _ratio(row), "—" if row.target is None else f"≥ {row.target:.2f}")
    Console(highlight=False).print(table)


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return "—"
    if row.target is None:
        return f"{row.ratio:.2f}"
    return f"[green]{row.ratio:.2f}[/]" if row.ratio >= row.target else f"[red]{row.ratio:.2f}[/]"
