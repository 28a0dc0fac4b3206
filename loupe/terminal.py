"""Terminal output: results on standard output, notices and the log on standard error."""

import logging
import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from loupe.errors import LoupeError, ProgramFailed
from loupe.text import one_line, visible

if TYPE_CHECKING:
    from rich.progress import Progress

GAP = " " * 2  # between columns
FIGURES_WIDTH = 80  # of a progress bar, without the bar itself
MIN_BAR_WIDTH, MAX_BAR_WIDTH = 10, 40


class Terminal(Console):
    """A console that prints every string as one line, without markup or control characters.

    Texts are not wrapped, so that paths can be copied. Use `styled` for parts in colour.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts as they are, and other objects within the width of the terminal."""
        options.setdefault("soft_wrap", all(isinstance(each, str | Text) for each in objects))
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string, also one in a table, to text on one line."""
        return super().render_str(one_line(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render an object; escape what strings that did not pass `render_str` hide."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Return a spinner with a text."""
        return super().status(styled(status) if isinstance(status, str) else status, **options)


console = Terminal()
notices = Terminal(stderr=True)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return one line of text from strings, and pairs of a string and a style."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((one_line(words), style) for words, style in pairs))


def print_error(error: LoupeError) -> None:
    """Print the error that ends a command, on one line; below it, the log of a failed program."""
    message, log = error.message, ""
    if isinstance(error, ProgramFailed):
        message, _, log = message.partition("\n")
    notices.print(styled(("error:", "bold red"), f" {error.code}: {message}"))
    for line in log.splitlines():
        notices.print(f"  {line}")


@contextmanager
def warnings_as_notices() -> Iterator[None]:
    """Print each warning of Loupe once, on one line, for commands that show no log."""
    logger, handler = logging.getLogger("loupe"), _NoticeHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _NoticeHandler(logging.Handler):
    """A log handler that prints each message once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._shown:
            self._shown.add(message)
            notices.print(styled(("notice:", "yellow"), f" {message}"))


def progress_bar(
    *fields: str, console: Console = console, speed_estimate_seconds: float = 30.0
) -> "Progress":
    """Return a bar with a description, a count, named task fields, and the times elapsed and left.

    It shows on a terminal only, and disappears when it stops.

    Args:
        fields: Names of task fields that hold text, such as a rate.
        console: Where to draw.
        speed_estimate_seconds: How far back the estimate of the time left looks.
    """
    from rich import progress

    room = console.width - FIGURES_WIDTH  # numbers are worth more than a bar
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        *([progress.BarColumn(min(room, MAX_BAR_WIDTH))] if room >= MIN_BAR_WIDTH else []),
        progress.MofNCompleteColumn(),
        *(progress.TextColumn(f"{{task.fields[{field}]}}", markup=False) for field in fields),
        progress.TextColumn("elapsed"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        speed_estimate_period=speed_estimate_seconds,
    )


@dataclass
class Column:
    """A column of a table.

    Attributes:
        header: One line, or several separated by line breaks.
        cells: One line for each row.
        rank: Columns of the highest rank are left out first, those of rank 0 never.
        justify: Use `right` for numbers.
    """

    header: str
    cells: Sequence[str]
    rank: int = 0
    justify: Literal["left", "right"] = "left"

    def __post_init__(self) -> None:
        self.cells = list(map(one_line, self.cells))  # before their widths count

    @property
    def width(self) -> int:
        """Width of the widest line in terminal cells."""
        return max(cell_len(line) for line in [*self.header.split("\n"), *self.cells])

    def padded(self, line: str) -> str:
        """Return a line of the column, padded to its width."""
        spaces = " " * (self.width - cell_len(line))
        return spaces + line if self.justify == "right" else line + spaces


def fitting(columns: Sequence[Column], width: float) -> list[Column]:
    """Return the columns that fit side by side, in their order."""
    chosen = list(columns)
    while sum(column.width + len(GAP) for column in chosen) - len(GAP) > width:
        last = max(chosen, key=lambda column: column.rank)
        if last.rank == 0:
            break
        chosen.remove(last)
    return chosen


def table_lines(columns: Sequence[Column]) -> tuple[list[str], list[str]]:
    """Return the lines of the header, and those of the rows."""
    headers = [column.header.split("\n") for column in columns]
    height = max(len(header) for header in headers)
    header_rows = zip(*([""] * (height - len(header)) + header for header in headers), strict=True)
    rows = zip(*(column.cells for column in columns), strict=True)
    return [_line(columns, row) for row in header_rows], [_line(columns, row) for row in rows]


def print_table(
    columns: Sequence[Column], elsewhere: str = "", instead: Mapping[int, str] | None = None
) -> None:
    """Print the columns that fit.

    Args:
        columns: Columns with the same number of cells.
        elsewhere: Where to find columns that do not fit; printed after their names.
        instead: For some rows, text of any length that replaces all cells but the first.
    """
    chosen = fitting(columns, _terminal_width())
    header, rows = table_lines(chosen)
    for number, words in (instead or {}).items():
        rows[number] = chosen[0].padded(chosen[0].cells[number]) + GAP + words
    for line in header:
        console.print(line, style="bold")
    for line in rows:
        console.print(line)
    missing = [column.header.replace("\n", " ") for column in columns if column not in chosen]
    if missing:
        notices.print(f"Too narrow for: {', '.join(missing)}. {elsewhere}", style="dim")


def print_sections(sections: Mapping[str, Mapping[str, str]]) -> None:
    """Print titled sections of names and values, with all values in one column."""
    indent = max(cell_len(name) for rows in sections.values() for name in rows) + 2 * len(GAP)
    width = max(_terminal_width(), 2 * indent)
    for title, rows in sections.items():
        if title:
            console.print()
            console.print(title, style="bold")
        for name, value in rows.items():
            begin = (GAP + name).ljust(indent)
            words = one_line(value)
            lines = [words] if width == math.inf else _wrapped(words, int(width) - indent)
            for line in lines:
                console.print((begin + line).rstrip())
                begin = " " * indent


def _line(columns: Sequence[Column], cells: Sequence[str]) -> str:
    padded = [column.padded(cell) for column, cell in zip(columns, cells, strict=True)]
    return GAP.join(padded).rstrip()


def _wrapped(value: str, width: int) -> list[str]:
    """Wrap between words only, so that paths and URLs can be copied."""
    return textwrap.wrap(value, width, break_long_words=False, break_on_hyphens=False) or [""]


def _terminal_width() -> float:
    """Return the line length; files and pipes have no limit unless `COLUMNS` sets one."""
    return console.width if console.is_terminal or "COLUMNS" in os.environ else math.inf
