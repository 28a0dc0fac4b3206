"""`python -m bench.fuzz [--requests N] [--seed N] [--only NUMBER]`: right, wrong and broken requests in disorder, over all routes.

Nothing may fail but with 503 or 504, no answer may be wrong, memory may not grow, and the service is to answer afterwards.
"""

import argparse
import asyncio
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

import psutil

from bench.__main__ import exit_code
from bench.fuzz.http import Case, make_case, plain
from bench.fuzz.known import Known, learn
from bench.fuzz.line import Caller, Outcome
from bench.open_loop import run
from bench.peers import LOUPE, serving
from bench.report import Row, at_most, show
from loupe.store import find_model

REQUESTS = 100_000
CALLERS = 8
WARM_UP = 0.1  # of the requests, before the memory counts
LOOKS = 200  # at the memory
ENDS = 10  # of the looks, whose median is the memory after the warm-up, and at the end
TARGET_MIB = 20
MOST_FAILURES = 50  # after which it ends: more say no more
SHOWN = 400  # bytes of what was sent
TRACEBACK = re.compile(r"^Traceback .*\n(?: .*\n)*\S.*", re.MULTILINE)


@dataclass(frozen=True)
class Failure:
    """What should not be.

    Attributes:
        what: Went wrong.
        number: Of the request, for `--only`; none if it is about all of them.
        case: What was sent.
    """

    what: str
    number: int | None = None
    case: Case | None = None

    def __str__(self) -> str:
        if self.case is None:
            return self.what
        sent = b" | ".join(self.case.pieces)
        return f"request {self.number}, {self.case.kind}: {self.what}\n    sent {len(sent):,} bytes: {sent[:SHOWN]!r}"


@dataclass
class Seen:
    """What was seen: bytes of memory, how many of each kind and of each status there were, and what should not be."""

    memory: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, number: int, case: Case, outcome: Outcome) -> None:
        """Count a request."""
        self.kinds[case.kind] += 1
        self.statuses.update(str(reply.status) for reply in outcome.replies)
        self.statuses["none"] += not outcome.replies
        if outcome.wrong:
            self.failures.append(Failure(outcome.wrong, number, case))


def main() -> int:
    """Fuzz the service; exit code 1 if something is not as it should be or there is no model, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description="Requests of all kinds to Loupe.")
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"default: {REQUESTS:,}")
    parser.add_argument("--seed", type=int, default=0, help="of what is sent; default: 0")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send this one request of the seed")
    arguments = parser.parse_args()

    def fuzz_and_tell() -> int:
        seen = _fuzz_a_service(arguments.requests, arguments.seed, arguments.only)
        rows = _rows(seen)
        show(rows)
        for failure in seen.failures:
            print(failure)
        return int(not all(row.target.holds(row.ratio) for row in rows if row.target and row.ratio is not None))

    return exit_code(fuzz_and_tell)


def _fuzz_a_service(requests: int, seed: int, only: int | None) -> Seen:
    model = find_model()
    known = learn(model)
    numbers = range(requests) if only is None else [only]
    print(f"fuzzing {model.tag} with {len(numbers):,} requests of seed {seed}")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving([LOUPE], model, Path(folder), LOUPE_DATA_DIR=f"{folder}/data") as programs,
    ):
        port, program = programs[LOUPE].port, programs[LOUPE].program
        assert program.log is not None
        return run(fuzz(port, program.process.pid, program.log, known, numbers, seed))


async def fuzz(port: int, pid: int, log: Path, known: Known, numbers: Sequence[int], seed: int) -> Seen:
    """Send the requests of a seed that have these numbers, several at a time, and one more in the end.

    Args:
        port: Of the service.
        pid: Of its process, whose memory counts.
        log: What it says, from now on.
        known: What it has to answer.
        numbers: Which requests.
        seed: Of what is sent.
    """
    seen = Seen()
    said = log.stat().st_size
    waiting = _looking(numbers, psutil.Process(pid), seen)
    await asyncio.gather(*[_call(Caller(port), known, waiting, seed, seen) for _ in range(CALLERS)])
    caller = Caller(port)
    last = await caller.play(plain(Random(seed), known))
    caller.close()
    if last.wrong or not last.replies:
        seen.failures.append(Failure(f"afterwards the service does not answer: {last.wrong}"))
    words = log.read_bytes()[said:].decode(errors="replace")
    seen.failures += [Failure(f"in the log: {trace}") for trace in dict.fromkeys(TRACEBACK.findall(words))]
    return seen


def _looking(numbers: Sequence[int], process: psutil.Process, seen: Seen) -> Iterator[int]:
    """The numbers, with a look at the memory now and then."""
    for place, number in enumerate(numbers):
        if len(seen.failures) >= MOST_FAILURES or not process.is_running():
            break
        if place % max(1, len(numbers) // LOOKS) == 0:
            seen.memory.append(process.memory_info().rss)
        yield number


async def _call(caller: Caller, known: Known, numbers: Iterator[int], seed: int, seen: Seen) -> None:
    for number in numbers:
        case = make_case(known, seed, number)
        seen.add(number, case, await caller.play(case))
    caller.close()


def _rows(seen: Seen) -> list[Row]:
    mib = [size / 2**20 for size in seen.memory]
    counted = mib[round(len(mib) * WARM_UP) :]
    warm, end = median(counted[:ENDS]), median(counted[-ENDS:])
    return [
        Row(f"{seen.kinds.total():,} requests", _counts(seen.kinds)),
        Row(f"{seen.statuses.total() - seen.statuses['none']:,} answers", _counts(seen.statuses)),
        Row("memory, MiB more", f"{end:,.1f} MiB", f"after warm-up\n{warm:,.1f} MiB", end - warm, at_most(TARGET_MIB)),
        Row("failures", f"{len(seen.failures)}", ratio=len(seen.failures), target=at_most(0)),
    ]


def _counts(counter: Counter[str]) -> str:
    return "\n".join(f"{count:,} × {what}" for what, count in sorted(counter.items()))


if __name__ == "__main__":
    sys.exit(main())
