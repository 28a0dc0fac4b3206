"""One caller alone: what the machinery for many costs it, and whether it is as well off after a crowd as before."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

from bench import posts
from bench.peers import BARE, LOUPE, serving
from bench.pictures import find_images
from bench.report import Row, at_most, median_ratio
from bench.turns import in_turns
from bench.wrk import Load, in_words, run_wrk
from loupe.store import StoredModel

ROUNDS = 12
ROUND_SECONDS = 1
TARGET = at_most(1.6)
BURSTS = 3
BURST_CONNECTIONS = 64
BURST_SECONDS = 10
BESIDE_BURST_SECONDS = 2  # before it and after it
BURST_TARGET = at_most(1.3)


def measure(model: StoredModel) -> Iterator[Row]:
    """Times at one connection: beside the bare app, and after bursts beside before."""
    post = posts.png(find_images(model, 1)[0])
    with tempfile.TemporaryDirectory() as folder, serving([LOUPE, BARE], model, Path(folder)) as programs:
        urls = {name: program.url for name, program in programs.items()}
        alone = {name: partial(run_wrk, url, post, 1, ROUND_SECONDS) for name, url in urls.items()}
        loads = in_turns(alone, ROUNDS)
        peer = f"{BARE}\n{in_words(loads[BARE])}"
        yield Row("PNG over HTTP, 1 at a time: p50", in_words(loads[LOUPE]), peer, _times(loads, LOUPE, BARE), TARGET)

        before, after = [], []
        for _ in range(BURSTS):
            before.append(run_wrk(urls[LOUPE], post, 1, BESIDE_BURST_SECONDS))
            run_wrk(urls[LOUPE], post, BURST_CONNECTIONS, BURST_SECONDS)
            after.append(run_wrk(urls[LOUPE], post, 1, BESIDE_BURST_SECONDS))
        what = f"1 at a time after {BURST_SECONDS} s of {BURST_CONNECTIONS}: p50"
        ratio = median(late.p50_ms / early.p50_ms for late, early in zip(after, before, strict=True))
        yield Row(what, in_words(after), f"before\n{in_words(before)}", ratio, BURST_TARGET)


def _times(loads: dict[str, list[Load]], mine: str, other: str) -> float:
    return median_ratio([load.p50_ms for load in loads[mine]], [load.p50_ms for load in loads[other]])
