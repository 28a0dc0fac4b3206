"""The terminal: results on standard output, notices and the log on standard error, and tables that fit."""

import logging
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

console = Console()
notices = Console(stderr=True)


def log_to_stderr() -> None:
    """Show the log, without the chatter of the libraries."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("tf2onnx", "absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def warnings_as_notices() -> Iterator[None]:
    """For commands that show no log: what it warns of in this block, each once and on a line of its own."""
    logger, handler = logging.getLogger("loupe"), _Notices(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def progress_bar(
    *fields: str, console: Console = console, speed_estimate_seconds: float = 30.0
) -> "Progress":
    """Return a bar with a description, a count, the named task fields, and the time past and left.

    It shows on a terminal only, and disappears when it stops.

    Args:
        fields: Names of task fields that hold text, such as a rate.
        console: Where to draw.
        speed_estimate_seconds: How far back the estimate of the time left looks.
    """
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        *(progress.TextColumn(f"{{task.fields[{field}]}}") for field in fields),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        speed_estimate_period=speed_estimate_seconds,
    )


class _Notices(logging.Handler):
    """Shows each message once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._shown:
            self._shown.add(message)
            notices.print("[yellow]notice:[/]", end=" ")
            notices.print(message, markup=False, highlight=False, soft_wrap=True)


GAP = 2  # spaces between columns


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        header: One line, or several with line breaks between them.
        cells: One line for each row.
        rank: The columns of the highest rank are left out first, those of rank 0 never.
        justify: Numbers stand right.
    """

    header: str
    cells: Sequence[str]
    rank: int = 0
    justify: Literal["left", "right"] = "left"

    @property
    def width(self) -> int:
        """Of its widest line, in characters on the screen."""
        return max(cell_len(line) for line in [*self.header.split("\n"), *self.cells])

    def padded(self, line: str) -> str:
        """A line of it, as wide as the column."""
        spaces = " " * (self.width - cell_len(line))
        return spaces + line if self.justify == "right" else line + spaces


def fitting(columns: Sequence[Column], width: float) -> list[Column]:
    """The columns that fit beside each other, in their order."""
    chosen = list(columns)
    while sum(column.width + GAP for column in chosen) - GAP > width:
        last = max(chosen, key=lambda column: column.rank)
        if last.rank == 0:
            break
        chosen.remove(last)
    return chosen


def table_lines(columns: Sequence[Column]) -> tuple[list[str], list[str]]:
    """The lines of the header, and those of the rows."""
    headers = [column.header.split("\n") for column in columns]
    height = max(len(header) for header in headers)
    header_rows = zip(*([""] * (height - len(header)) + header for header in headers), strict=True)
    rows = zip(*(column.cells for column in columns), strict=True)
    return [_line(columns, row) for row in header_rows], [_line(columns, row) for row in rows]


def print_table(
    columns: Sequence[Column], elsewhere: str = "", instead: Mapping[int, str] | None = None
) -> None:
    """Print what fits.

    Args:
        columns: All of them with as many cells.
        elsewhere: Where the reader finds what does not fit; it follows the names of those columns.
        instead: By the number of a row, what stands there behind its first cell, of whatever length.
    """
    chosen = fitting(columns, _terminal_width())
    header, rows = table_lines(chosen)
    for number, words in (instead or {}).items():
        rows[number] = chosen[0].padded(chosen[0].cells[number]) + " " * GAP + words
    for line in header:
        console.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
    for line in rows:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    missing = ", ".join(
        column.header.replace("\n", " ") for column in columns if column not in chosen
    )
    if missing:
        notices.print(
            f"Too narrow for: {missing}. {elsewhere}",
            style="dim",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def print_sections(sections: Mapping[str, Mapping[str, str]]) -> None:
    """Print names and values below the titles of their sections, the values below each other throughout."""
    indent = max(cell_len(name) for rows in sections.values() for name in rows) + 2 * GAP
    width = max(_terminal_width(), 2 * indent)
    for title, rows in sections.items():
        if title:
            console.print(f"\n{title}", style="bold", markup=False, highlight=False)
        for name, value in rows.items():
            begin = (" " * GAP + name).ljust(indent)
            lines = [value] if width == math.inf else _wrapped(value, int(width) - indent)
            for line in lines:
                console.print(
                    (begin + line).rstrip(), markup=False, highlight=False, soft_wrap=True
                )
                begin = " " * indent


def _line(columns: Sequence[Column], cells: Sequence[str]) -> str:
    padded = [column.padded(cell) for column, cell in zip(columns, cells, strict=True)]
    return (" " * GAP).join(padded).rstrip()


def _wrapped(value: str, width: int) -> list[str]:
    """Broken between words only, so that paths and addresses can be copied."""
    return textwrap.wrap(value, width, break_long_words=False, break_on_hyphens=False) or [""]


def _terminal_width() -> float:
    """Characters in a line; a file or a pipe has lines of any length unless `COLUMNS` says otherwise."""
    return console.width if console.is_terminal or "COLUMNS" in os.environ else math.inf
