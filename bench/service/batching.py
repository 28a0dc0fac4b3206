"""Batching: Loupe with and without it, and BentoML's, under closed-loop and open-loop load.

With `--plot`, the chart and the table of `docs/batching-benchmark.md` are updated.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.harness import Row, in_turns
from bench.inputs import Post, find_images, png_post
from bench.service.load import Load, combine, describe, run_wrk
from bench.service.open_loop import run_closed_loop, run_open_loop
from bench.service.servers import BATCHABLE, LOUPE, UNBATCHED, RunningServer, serving
from loupe.drawing import MUTED, ORANGE
from loupe.models.store import StoredModel
from loupe.runtime.cores import available_cores
from train.evaluate.plots import BLUE, DASHED, WIDTH, picture

COLOURS = {LOUPE: BLUE, UNBATCHED: MUTED, BATCHABLE: ORANGE}
CONNECTIONS = (1, 4, 16, 64, 256)
ROUNDS = 5
ROUND_SECONDS = 1
SHARES = (0.3, 0.6, 0.9)  # offered rate over capacity
CAPACITY_CONNECTIONS = 64
CAPACITY_SECONDS = 2
OPEN_ROUNDS = 2
OPEN_SECONDS = 4
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
CAPTION = "Requests per second and response times, with and without batching"


@dataclass(frozen=True)
class Results:
    """Combined loads by server.

    Attributes:
        closed: Closed-loop loads by number of connections.
        opened: Open-loop loads by the share of the server's own capacity that was offered.
    """

    closed: Mapping[int, Mapping[str, Load]]
    opened: Mapping[float, Mapping[str, Load]]

    @property
    def by_label(self) -> dict[str, Mapping[str, Load]]:
        """All loads, by a label for tables."""
        closed = {f"{number} at a time": loads for number, loads in self.closed.items()}
        opened = {
            f"random, {share * 100:.0f} % of capacity": each for share, each in self.opened.items()
        }
        return closed | opened


def measure(model: StoredModel, plot: Path | None = None) -> Iterator[Row]:
    """Measure requests per second, p50 and p99 of each server.

    Args:
        model: The model to serve.
        plot: A `.png` file for the chart. The table goes into the `.md` file next to it.
    """
    results = _collect(model)
    if plot is not None:
        _update_page(results, model, plot)
    for label, loads in results.by_label.items():
        peers = [f"{name}\n{describe([load])}" for name, load in loads.items() if name != LOUPE]
        yield Row(f"PNG over HTTP, {label}", describe([loads[LOUPE]]), "\n".join(peers))


def _collect(model: StoredModel) -> Results:
    post = png_post(find_images(model, 1)[0])
    with serving(list(COLOURS), model) as servers:
        closed = {connections: _closed(servers, post, connections) for connections in CONNECTIONS}
        capacities = _capacities(servers, post)
        opened = {share: _opened(servers, post, share, capacities) for share in SHARES}
    return Results(closed, opened)


def _closed(servers: Mapping[str, RunningServer], post: Post, connections: int) -> dict[str, Load]:
    runs = {
        name: partial(run_wrk, server.url, post, connections, ROUND_SECONDS)
        for name, server in servers.items()
    }
    return {name: combine(loads) for name, loads in in_turns(runs, ROUNDS).items()}


def _capacities(servers: Mapping[str, RunningServer], post: Post) -> dict[str, float]:
    """Return requests per second with the generator that the open loop uses."""
    runs = {
        name: partial(run_closed_loop, server.port, post, CAPACITY_CONNECTIONS, CAPACITY_SECONDS)
        for name, server in servers.items()
    }
    outcomes = in_turns(runs, OPEN_ROUNDS)
    return {name: median(each.goodput for each in runs) for name, runs in outcomes.items()}


def _opened(
    servers: Mapping[str, RunningServer],
    post: Post,
    share: float,
    capacities: Mapping[str, float],
) -> dict[str, Load]:
    runs = {
        name: partial(run_open_loop, server.port, post, share * capacities[name], OPEN_SECONDS)
        for name, server in servers.items()
    }
    outcomes = in_turns(runs, OPEN_ROUNDS)
    return {name: combine([each.load for each in runs]) for name, runs in outcomes.items()}


def _update_page(results: Results, model: StoredModel, plot: Path) -> None:
    """Write the chart, and replace the table in the page next to it.

    Raises:
        ValueError: If the page lacks the comments around the table.
    """
    plot.write_bytes(_draw(results))
    page = plot.with_suffix(".md")
    if page.exists():
        before, begin, rest = page.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"{page} lacks {BEGIN} or {END}.")
        figures = f"{_table(results, model)}\n\n![{CAPTION}]({plot.name})"
        page.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}")


def _table(results: Results, model: StoredModel) -> str:
    """Return the results as a Markdown table with a line on their origin."""
    config = model.card.config
    network = f"{config.get('architecture')} with {config.get('parameters'):,} parameters"
    lines = [
        f"{date.today()}, {available_cores()} cores ({platform.machine()}), a {network}. "
        "Each cell:\nrequests per second, p50 / p99 in milliseconds.",
        "",
        "| | " + " | ".join(COLOURS) + " |",
        "|---" * (len(COLOURS) + 1) + "|",
    ]
    for label, loads in results.by_label.items():
        lines.append(f"| {label} | " + " | ".join(_cell(loads[name]) for name in COLOURS) + " |")
    return "\n".join(lines)


def _cell(load: Load) -> str:
    errors = f", {load.errors:,} errors" if load.errors else ""
    return f"{load.requests_per_second:,.0f}, {load.p50_ms:.1f} / {load.p99_ms:.1f}{errors}"


@picture
def _draw(results: Results) -> Figure:
    """Draw rates and times over connections, and times over the share of the capacity."""
    figure = Figure((WIDTH, 3.7), layout="constrained")
    rates, closed, opened = figure.subplots(1, 3)
    connections, shares = list(results.closed), list(results.opened)
    for name, colour in COLOURS.items():
        loads = [results.closed[count][name] for count in connections]
        speeds = [load.requests_per_second for load in loads]
        rates.plot(connections, speeds, marker=".", color=colour, linewidth=1.8, label=name)
        _plot_times(closed, connections, loads, colour)
        _plot_times(opened, shares, [results.opened[share][name] for share in shares], colour)
    rates.set_title("Requests per second")
    rates.set_ylim(bottom=0)
    closed.set_title("p50, and p99 dashed")
    opened.set_title("At random moments")
    for axes in (rates, closed):
        axes.set_xscale("log", base=2)
        axes.set_xticks(connections, [str(count) for count in connections])
        axes.set_xlabel("requests at a time")
    opened.set_xticks(shares, [f"{share * 100:.0f} %" for share in shares])
    opened.set_xlabel("share of each server's capacity")
    for axes in (closed, opened):
        axes.set_ylabel("milliseconds")
    legend = rates.get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=3, labelcolor=MUTED)
    return figure


def _plot_times(axes: Axes, xs: Sequence[float], loads: Sequence[Load], colour: str) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda milliseconds, _: f"{milliseconds:g}")
    p50s, p99s = [load.p50_ms for load in loads], [load.p99_ms for load in loads]
    axes.plot(xs, p50s, marker=".", color=colour, linewidth=1.8)
    axes.plot(xs, p99s, marker=".", color=colour, linewidth=1.2, linestyle=DASHED)
