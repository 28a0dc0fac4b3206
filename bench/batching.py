"""Batching compared: Loupe's own, none, and BentoML's, from one caller to hundreds, and with requests that come when they please."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from bench import posts
from bench.open_loop import closed_loop, offer
from bench.peers import BATCHABLE, LOUPE, UNBATCHED, Serving, serving
from bench.pictures import find_images
from bench.posts import Post
from bench.report import Row
from bench.turns import in_turns
from bench.wrk import Load, in_words, middle, run_wrk
from loupe.store import StoredModel

PROGRAMS = (LOUPE, UNBATCHED, BATCHABLE)
CONNECTIONS = (1, 4, 16, 64, 256)
ROUNDS = 5
ROUND_SECONDS = 1
SHARES = (0.3, 0.6, 0.9)  # of the capacity
CAPACITY_CONNECTIONS = 64
CAPACITY_SECONDS = 2
OPEN_ROUNDS = 2
OPEN_SECONDS = 4


@dataclass(frozen=True)
class Figures:
    """What one kind of load found, by program: medians of runs in turns.

    Attributes:
        closed: By connections.
        opened: By the share of the program's capacity that was offered.
    """

    closed: Mapping[int, Mapping[str, Load]]
    opened: Mapping[float, Mapping[str, Load]]


def measure(model: StoredModel, page: Path | None = None) -> Iterator[Row]:
    """Requests per second, p50 and p99 of each.

    Args:
        model: What is served.
        page: A picture that is to show them, beside which lies a page of the same name for the table.
    """
    figures = collect(model)
    if page is not None:
        from bench import batching_page

        batching_page.write(figures, model, page)
    for connections, loads in figures.closed.items():
        yield _row(f"PNG over HTTP, {connections} at a time", loads)
    for share, loads in figures.opened.items():
        yield _row(f"PNG over HTTP at random moments, {share * 100:.0f} % of each one's capacity", loads)


def collect(model: StoredModel) -> Figures:
    """Measure it all."""
    post = posts.png(find_images(model, 1)[0])
    with tempfile.TemporaryDirectory() as folder, serving(PROGRAMS, model, Path(folder)) as programs:
        closed = {connections: _closed(programs, post, connections) for connections in CONNECTIONS}
        capacities = _capacities(programs, post)
        opened = {share: _opened(programs, post, share, capacities) for share in SHARES}
    return Figures(closed, opened)


def _closed(programs: Mapping[str, Serving], post: Post, connections: int) -> dict[str, Load]:
    runs = {name: partial(run_wrk, each.url, post, connections, ROUND_SECONDS) for name, each in programs.items()}
    return {name: middle(loads) for name, loads in in_turns(runs, ROUNDS).items()}


def _capacities(programs: Mapping[str, Serving], post: Post) -> dict[str, float]:
    """Requests per second that the generator of the random moments can have answered."""
    runs = {
        name: partial(closed_loop, each.port, post, CAPACITY_CONNECTIONS, CAPACITY_SECONDS)
        for name, each in programs.items()
    }
    seen = in_turns(runs, OPEN_ROUNDS)
    return {name: median(outcome.goodput for outcome in outcomes) for name, outcomes in seen.items()}


def _opened(
    programs: Mapping[str, Serving], post: Post, share: float, capacities: Mapping[str, float]
) -> dict[str, Load]:
    runs = {
        name: partial(offer, each.port, post, share * capacities[name], OPEN_SECONDS) for name, each in programs.items()
    }
    return {
        name: middle([outcome.load for outcome in outcomes]) for name, outcomes in in_turns(runs, OPEN_ROUNDS).items()
    }


def _row(what: str, loads: Mapping[str, Load]) -> Row:
    peers = [f"{name}\n{in_words([load])}" for name, load in loads.items() if name != LOUPE]
    return Row(what, in_words([loads[LOUPE]]), "\n".join(peers))
