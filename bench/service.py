"""Single PNGs over HTTP: Loupe beside a bare app and beside other servers of models."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from bench import posts
from bench.peers import BARE, BATCHABLE, KERAS, LITSERVE, LOUPE, TWO_SERVICES, Serving, serving
from bench.pictures import find_images
from bench.posts import Post
from bench.report import Row, Target, at_least, at_most, median_ratio
from bench.turns import in_turns
from bench.wrk import Load, in_words, run_wrk
from loupe.store import StoredModel

CONNECTIONS = 16
TAIL_TARGET = at_most(3)


@dataclass(frozen=True)
class Contest:
    """Programs that are measured in turns with Loupe.

    Attributes:
        targets: What Loupe's speed over each one's is to be.
        rounds: How many; short ones, so that other work on the machine hits all alike.
        seconds: Of one program's turn.
        rest_seconds: After it, in which a slow program finishes what nobody waits for any more.
    """

    targets: Mapping[str, Target]
    rounds: int = 12
    seconds: int = 1
    rest_seconds: float = 0.0


CONTESTS = (
    Contest({BARE: at_least(0.75), BATCHABLE: at_least(1.15), TWO_SERVICES: at_least(5)}),
    Contest({LITSERVE: at_least(2)}),  # by itself, since its worker is busy while it waits
    Contest({KERAS: at_least(70)}, rounds=3, seconds=4, rest_seconds=2.0),
)


def measure(model: StoredModel) -> Iterator[Row]:
    """Requests per second and latency, in turns."""
    post = posts.png(find_images(model, 1)[0])
    for contest in CONTESTS:
        loads = _take_turns(contest, model, post)
        for peer, target in contest.targets.items():
            if peer in loads:
                yield _compare(loads, peer, target)
        if BARE in loads:
            ours = loads[LOUPE]
            tail = median(load.p99_ms / load.p50_ms for load in ours)
            yield Row(f"p99 over p50, {CONNECTIONS} at a time", in_words(ours), "its own p50", tail, TAIL_TARGET)


def _take_turns(contest: Contest, model: StoredModel, post: Post) -> dict[str, list[Load]]:
    """What each program did."""

    def load(program: Serving) -> Load:
        seen = run_wrk(program.url, post, CONNECTIONS, contest.seconds)
        time.sleep(contest.rest_seconds)
        return seen

    names = [LOUPE, *contest.targets]
    with tempfile.TemporaryDirectory() as folder, serving(names, model, Path(folder)) as programs:
        if len(programs) == 1:  # nobody to compare with
            return {}
        return in_turns({name: partial(load, program) for name, program in programs.items()}, contest.rounds)


def _compare(loads: Mapping[str, list[Load]], peer: str, target: Target) -> Row:
    ours, theirs = ([load.requests_per_second for load in loads[name]] for name in (LOUPE, peer))
    words = f"{peer}\n{in_words(loads[peer])}"
    return Row(
        f"PNG over HTTP, {CONNECTIONS} at a time", in_words(loads[LOUPE]), words, median_ratio(ours, theirs), target
    )
