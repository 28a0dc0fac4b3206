"""`python -m tests.stress.fuzz [--requests N] [--seed N] [--only N] [--model TAG]`: fuzz a service.

The service may answer no request with a 5xx other than 503 and 504, give no wrong answer, log no
traceback, and need no more memory. It must still answer afterwards.
"""

import argparse
import asyncio
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

import psutil

from bench.harness import Row, at_most, run_program, show
from bench.inputs import MODEL_HELP, benchmark_model
from bench.service.open_loop import run_fast
from bench.service.servers import LOUPE, serving
from tests.stress.fuzz.cases import Case, make_case, plain
from tests.stress.fuzz.client import Client, Outcome
from tests.stress.fuzz.requests import Reference, make_reference

REQUESTS = 100_000
CLIENTS = 8
WARM_UP = 0.1  # share of memory samples that do not count
SAMPLES = 200  # of memory
END_SAMPLES = 10  # their medians are the memory after the warm-up and at the end
TARGET_MIB = 20
MAX_FAILURES = 50  # ends the run
MAX_SHOWN_BYTES = 400  # of a request
TRACEBACK = re.compile(r"^Traceback .*\n(?: .*\n)*\S.*", re.MULTILINE)


@dataclass(frozen=True)
class Failure:
    """A fault of the service.

    Attributes:
        fault: The description.
        number: The number of the request, for `--only`; `None` if it is not about one request.
        case: The request.
    """

    fault: str
    number: int | None = None
    case: Case | None = field(default=None, repr=False)  # it may be large

    def __str__(self) -> str:
        if self.case is None:
            return self.fault
        sent = b" | ".join(self.case.pieces)
        shown = f"sent {len(sent):,} bytes: {sent[:MAX_SHOWN_BYTES]!r}"
        return f"request {self.number}, {self.case.kind}: {self.fault}\n    {shown}"


@dataclass
class Report:
    """The result of a run.

    Attributes:
        memory: Samples of resident memory, in bytes.
        kinds: Number of requests by kind.
        statuses: Number of responses by status.
        failures: All faults.
    """

    memory: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, number: int, case: Case, outcome: Outcome) -> None:
        """Count a request and its outcome."""
        self.kinds[case.kind] += 1
        self.statuses.update(str(reply.status) for reply in outcome.replies)
        self.statuses["none"] += not outcome.replies
        if outcome.fault:
            self.failures.append(Failure(outcome.fault, number, case))


def main() -> int:
    """Fuzz the service. Return exit code 1 after a fault, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress.fuzz", description="Fuzz the service."
    )
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"default: {REQUESTS:,}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests; default: 0")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send only this request")
    parser.add_argument("--model", metavar="TAG", help=MODEL_HELP)
    arguments = parser.parse_args()
    only: int | None = arguments.only
    numbers = range(arguments.requests) if only is None else [only]

    def run() -> int:
        report = _fuzz_service(numbers, arguments.seed, arguments.model)
        rows = _rows(report)
        show(rows, "Results of the fuzz test")
        for failure in report.failures:
            print(failure)
        return int(any(row.failed for row in rows))

    return run_program(run)


def _fuzz_service(numbers: Sequence[int], seed: int, tag: str | None) -> Report:
    """Start a service and fuzz it."""
    with benchmark_model(tag) as model:
        reference = make_reference(model)
        print(f"Fuzzing {model.tag} with {len(numbers):,} requests of seed {seed}.")
        with serving([LOUPE], model) as servers:
            port, program = servers[LOUPE].port, servers[LOUPE].program
            assert program.log is not None
            pid = program.process.pid
            return run_fast(fuzz(port, pid, program.log, reference, numbers, seed))


async def fuzz(
    port: int, pid: int, log: Path, reference: Reference, numbers: Sequence[int], seed: int
) -> Report:
    """Send requests from several clients, and a valid one at the end.

    Args:
        port: The port of the service.
        pid: The process whose memory is sampled.
        log: The log of the service, which is searched for new tracebacks.
        reference: The right answers.
        numbers: The numbers of the requests.
        seed: The seed of the requests.
    """
    report = Report()
    log_bytes = log.stat().st_size
    remaining = _sample_memory(numbers, psutil.Process(pid), report)
    workers = [_work(Client(port), reference, remaining, seed, report) for _ in range(CLIENTS)]
    await asyncio.gather(*workers)
    client = Client(port)
    last = await client.run(plain(Random(seed), reference))
    client.close()
    if last.fault or not last.replies:
        fault = f"after the run, the service does not answer: {last.fault}"
        report.failures.append(Failure(fault))
    text = log.read_bytes()[log_bytes:].decode(errors="replace")
    tracebacks = dict.fromkeys(TRACEBACK.findall(text))
    report.failures += [Failure(f"in the log: {traceback}") for traceback in tracebacks]
    return report


def _sample_memory(
    numbers: Sequence[int], process: psutil.Process, report: Report
) -> Iterator[int]:
    """Yield the numbers until there are too many failures, and sample memory regularly."""
    interval = max(1, len(numbers) // SAMPLES)
    for position, number in enumerate(numbers):
        if len(report.failures) >= MAX_FAILURES or not process.is_running():
            break
        if position % interval == 0:
            report.memory.append(process.memory_info().rss)
        yield number


async def _work(
    client: Client, reference: Reference, numbers: Iterator[int], seed: int, report: Report
) -> None:
    for number in numbers:
        case = make_case(reference, seed, number)
        report.add(number, case, await client.run(case))
    client.close()


def _rows(report: Report) -> list[Row]:
    mib = [size / 2**20 for size in report.memory]
    counted = mib[round(len(mib) * WARM_UP) :]
    start, end = median(counted[:END_SAMPLES]), median(counted[-END_SAMPLES:])
    requests, responses = report.kinds.total(), report.statuses.total() - report.statuses["none"]
    failures = len(report.failures)
    peer = f"after warm-up\n{start:,.1f} MiB"
    return [
        Row(f"{requests:,} requests", _format_counts(report.kinds)),
        Row(f"{responses:,} responses", _format_counts(report.statuses)),
        Row("memory growth, MiB", f"{end:,.1f} MiB", peer, end - start, at_most(TARGET_MIB)),
        Row("failures", f"{failures}", ratio=failures, target=at_most(0)),
    ]


def _format_counts(counter: Counter[str]) -> str:
    return "\n".join(f"{count:,} × {name}" for name, count in sorted(counter.items()))


if __name__ == "__main__":
    sys.exit(main())
