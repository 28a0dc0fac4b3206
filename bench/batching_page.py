"""The picture and the table of `docs/batching-benchmark.md`, from the figures of one run."""

import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.batching import Figures
from bench.peers import BATCHABLE, LOUPE, UNBATCHED
from bench.wrk import Load
from loupe.cores import available_cores
from loupe.store import StoredModel
from train.plots import BLUE, DASHED, MUTED, ORANGE, WIDTH, picture

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
CAPTION = "Requests per second and times, with and without batching"
COLOURS = {LOUPE: BLUE, UNBATCHED: MUTED, BATCHABLE: ORANGE}


def write(figures: Figures, model: StoredModel, path: Path) -> None:
    """Draw the picture, and put the table between the marks of the page that lies beside it, if there is one.

    Raises:
        ValueError: If the page has no marks.
    """
    path.write_bytes(draw(figures))
    page = path.with_suffix(".md")
    if page.exists():
        before, begin, rest = page.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"Expected {BEGIN} and {END} in {page}.")
        page.write_text(f"{before}{BEGIN}\n{table(figures, model)}\n\n![{CAPTION}]({path.name})\n{END}{after}")


def table(figures: Figures, model: StoredModel) -> str:
    """Figures of every load and program, in Markdown, and where they come from."""
    programs = list(next(iter(figures.closed.values())))
    loads: dict[str, Mapping[str, Load]] = {
        f"{connections} at a time": each for connections, each in figures.closed.items()
    }
    loads |= {f"random, {share * 100:.0f} % of each one's capacity": each for share, each in figures.opened.items()}
    config = model.card.config
    lines = [
        f"{date.today()}, {available_cores()} cores ({platform.machine()}), a {config.get('architecture')} of "
        f"{config.get('parameters'):,} parameters. In each cell: requests per second, p50 / p99 in milliseconds.",
        "",
        "| | " + " | ".join(programs) + " |",
        "|---" * (len(programs) + 1) + "|",
    ]
    lines += [
        f"| {what} | " + " | ".join(_cell(each[name]) for name in programs) + " |" for what, each in loads.items()
    ]
    return "\n".join(lines)


def _cell(load: Load) -> str:
    errors = f", {load.errors:,} errors" if load.errors else ""
    return f"{load.requests_per_second:,.0f}, {load.p50_ms:.1f} / {load.p99_ms:.1f}{errors}"


@picture
def draw(figures: Figures) -> Figure:
    """Requests per second and times over connections, and times over the share of the capacity."""
    figure = Figure((WIDTH, 3.7), layout="constrained")
    rates, closed, opened = figure.subplots(1, 3)
    connections, shares = list(figures.closed), list(figures.opened)
    for name, colour in COLOURS.items():
        each = [figures.closed[count][name] for count in connections]
        rates.plot(
            connections,
            [load.requests_per_second for load in each],
            marker=".",
            color=colour,
            linewidth=1.8,
            label=name,
        )
        _times(closed, connections, each, colour)
        _times(opened, shares, [figures.opened[share][name] for share in shares], colour)
    rates.set_title("Requests per second")
    rates.set_ylim(bottom=0)
    closed.set_title("p50, and p99 dashed")
    opened.set_title("At random moments")
    for axes in (rates, closed):
        axes.set_xscale("log", base=2)
        axes.set_xticks(connections, [str(count) for count in connections])
        axes.set_xlabel("requests at a time")
    opened.set_xticks(shares, [f"{share * 100:.0f} %" for share in shares])
    opened.set_xlabel("share of each one's capacity")
    for axes in (closed, opened):
        axes.set_ylabel("milliseconds")
    figure.legend(*rates.get_legend_handles_labels(), loc="outside lower center", ncols=3, labelcolor=MUTED)
    return figure


def _times(axes: Axes, places: Sequence[float], loads: Sequence[Load], colour: str) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda milliseconds, _: f"{milliseconds:g}")
    axes.plot(places, [load.p50_ms for load in loads], marker=".", color=colour, linewidth=1.8)
    axes.plot(places, [load.p99_ms for load in loads], marker=".", color=colour, linewidth=1.2, linestyle=DASHED)
