"""`python -m tests.stress.chaos [--minutes N] [--seed N]`: disturb bulk scoring.

In each round, three workers score four jobs. At random shares of the work, a worker is killed with
SIGKILL and replaced, or Redis is stopped with SIGTERM and restarted (its append-only file is
flushed every second). In rounds with an odd seed, Sentinels watch a Redis and a replica, and Redis
is killed with SIGKILL in place of a restart: the replica takes over. The results must equal, byte
for byte, those of one undisturbed worker. The jobs write Parquet, CSV and JSON lines in turn; the
last one merges its parts into one file.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from subprocess import Popen
from typing import Literal, TypeAlias

import numpy as np

from bench.harness import run_program
from bench.inputs import benchmark_model
from loupe.jobs import ENDED, ScoringOptions
from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.runtime.supervisor import CLEAN_EXITS
from loupe.settings import Settings
from tests.support import pictures
from tests.support.job_requests import submit
from tests.support.programs import run, running, until
from tests.support.servers.redis_groups import Watched, watched_redis
from tests.support.servers.redis_servers import RedisServer, redis_server
from worker.queue.jobs import Jobs
from worker.queue.records import Job

MINUTES = 10.0
WORKERS = 3
KILLS, RESTARTS = 6, 2  # per round
# Small shards: one that is interrupted five times counts as faulty, which must not happen here.
SHARD_IMAGES = 250
MAX_SHARE = 0.95  # of the work; later disturbances might come after its end
# Progress is seen when a shard is committed. A pause moves disturbances to other moments.
MAX_PAUSE_SECONDS = 0.5
ARRAY_IMAGES, PICTURES, UNREADABLE = 8_000, 800, 7
WORKER = {"LOUPE_LEASE_SECONDS": 1, "LOUPE_THREADS": 1}
# Fields of a summary that differ between any two jobs.
VARYING_FIELDS = {"job", "workers", "started", "finished", "seconds", "images_per_second"}
OPTIONS = [  # of the jobs
    ScoringOptions(format="parquet"),
    ScoringOptions(format="csv"),
    ScoringOptions(format="jsonl"),
    ScoringOptions(format="jsonl", single=True),
]
Disturbance: TypeAlias = Literal["kill", "restart"]


@dataclass(frozen=True)
class Result:
    """The content of an output folder.

    Attributes:
        files: All files by name, with the bytes of those that contain rows or errors.
        summary: The summary without `VARYING_FIELDS`.
    """

    files: dict[str, bytes]
    summary: dict[str, object]

    def differences(self, other: "Result") -> list[str]:
        """Describe the differences to another result."""
        common = self.files.keys() & other.files.keys()
        rows = [name for name in common if self.files[name] != other.files[name]]
        fields = [name for name, value in self.summary.items() if other.summary.get(name) != value]
        found = {
            "only in one result:": self.files.keys() ^ other.files.keys(),
            "different rows in": rows,
            "different summary fields:": fields,
        }
        return [f"{what} {', '.join(sorted(names))}" for what, names in found.items() if names]


@dataclass
class Round:
    """The outcome of a round."""

    disturbances: Counter[Disturbance]
    failures: list[str]
    seconds: float


def main() -> int:
    """Run rounds for some minutes. Return exit code 1 after a failure, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress.chaos", description="Disturb bulk scoring."
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default: {MINUTES:g}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round; default: 0")
    arguments = parser.parse_args()

    def run_rounds() -> int:
        failures = 0
        with tempfile.TemporaryDirectory(prefix="loupe-chaos-") as name, benchmark_model() as model:
            sources, expected = prepare(model, Path(name))
            deadline = time.monotonic() + 60 * arguments.minutes
            for seed in count(arguments.seed):
                ended = run_round(model, sources, expected, Path(name) / f"round-{seed}", seed)
                print(_describe(seed, ended), flush=True)
                failures += len(ended.failures)
                if time.monotonic() > deadline:
                    break
        return int(failures > 0)

    return run_program(run_rounds)


def _describe(seed: int, ended: Round) -> str:
    kills, restarts = ended.disturbances["kill"], ended.disturbances["restart"]
    events = (
        f"{kills} workers killed, {restarts} {'failovers' if seed % 2 else 'restarts'} of Redis"
    )
    outcome = "; ".join(ended.failures) or "same results as undisturbed"
    return f"seed {seed}: {events}, {ended.seconds:.0f} s: {outcome}"


def prepare(model: StoredModel, folder: Path) -> tuple[list[Path], list[Result]]:
    """Create sources, and score them without disturbances.

    Returns:
        An array, a folder, a zip archive and a tar archive, and the result of each.
    """
    array, files = folder / "array.npy", folder / "folder"
    np.save(array, pictures.digits(ARRAY_IMAGES))
    files.mkdir()
    for number, image in enumerate(pictures.digits(PICTURES, seed=1)):
        (files / f"{number:05d}.png").write_bytes(pictures.png(image))
    for number in range(UNREADABLE):
        (files / f"{number:05d}-unreadable.png").write_bytes(b"not an image")
    archives = [
        Path(shutil.make_archive(str(folder / kind), kind, files)) for kind in ("zip", "tar")
    ]
    sources = [array, files, *archives]
    settings = Settings(data_dir=folder / "undisturbed")
    with open_redis(settings) as redis:
        submitted = _submit(Jobs(redis), sources, settings.home, model)
        ended = run("worker", "--burst", **WORKER, LOUPE_DATA_DIR=settings.home)
        assert ended.returncode == 0, ended.stderr
        assert [Jobs(redis).get(job.id).state for job in submitted] == ["done"] * len(sources)
    return sources, [read_result(Path(job.output)) for job in submitted]


def run_round(
    model: StoredModel,
    sources: Sequence[Path],
    expected: Sequence[Result],
    folder: Path,
    seed: int,
) -> Round:
    """Score the sources with disturbances.

    Args:
        model: The model that scores.
        sources: The sources.
        expected: The expected result of each source.
        folder: A folder to create for results, Redis data and logs.
        seed: The seed of the disturbances.
    """
    random, started = Random(seed), time.monotonic()
    done = Counter[Disturbance]()
    (folder / "redis").mkdir(parents=True)
    open_server = watched_redis if seed % 2 else redis_server
    with (
        open_server(folder / "redis", appendonly="yes", appendfsync="everysec") as server,
        open_redis(Settings(redis_url=server.url)) as redis,
        ExitStack() as stack,
    ):
        jobs = Jobs(redis)
        submitted = _submit(jobs, sources, folder, model)
        crew = _Crew(folder, server.url, stack)
        for share, disturbance in _disturbances(random):
            until(partial(_is_done, jobs, submitted, share))
            time.sleep(random.uniform(0, MAX_PAUSE_SECONDS))
            crew.kill(random) if disturbance == "kill" else _restart(server)
            done[disturbance] += 1
        until(lambda: all(jobs.get(job.id).state in ENDED for job in submitted))
        failures = crew.stop()
        ended = [jobs.get(job.id) for job in submitted]
    for job, result in zip(ended, expected, strict=True):
        failures += [f"{Path(job.output).name}: {failure}" for failure in _check(job, result)]
    return Round(done, failures, time.monotonic() - started)


class _Crew:
    """A fixed number of workers."""

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self._folder = folder
        self._variables = {**WORKER, "LOUPE_REDIS_URL": url}
        self._stack = stack
        self._started = count()
        self._logs = [folder] * WORKERS
        self._workers = [self._start(index) for index in range(WORKERS)]

    def kill(self, random: Random) -> None:
        """Kill a random worker and replace it."""
        index = random.randrange(WORKERS)
        self._workers[index].kill()
        self._workers[index] = self._start(index)

    def stop(self) -> list[str]:
        """Stop all workers, and describe those that had failed."""
        for worker in self._workers:
            worker.terminate()
        codes = [worker.wait() for worker in self._workers]
        return [
            f"a worker ended with exit code {code}: {log.read_text().splitlines()[-1:]}"
            for code, log in zip(codes, self._logs, strict=True)
            if code not in CLEAN_EXITS
        ]

    def _start(self, index: int) -> Popen[bytes]:
        self._logs[index] = self._folder / f"worker-{next(self._started)}.log"
        command = running(self._logs[index], "worker", **self._variables)
        return self._stack.enter_context(command)


def _submit(jobs: Jobs, sources: Sequence[Path], folder: Path, model: StoredModel) -> list[Job]:
    return [
        submit(jobs, source, folder / f"of-{source.name}", model.tag, SHARD_IMAGES, options)
        for source, options in zip(sources, OPTIONS, strict=True)
    ]


def _disturbances(random: Random) -> list[tuple[float, Disturbance]]:
    """Choose the disturbances, each with the share of work that precedes it."""
    kinds: list[tuple[Disturbance, int]] = [("kill", KILLS), ("restart", RESTARTS)]
    return sorted(
        (random.uniform(0, MAX_SHARE), kind) for kind, number in kinds for _ in range(number)
    )


def _is_done(jobs: Jobs, submitted: Sequence[Job], share: float) -> bool:
    """Return whether a share of the work is done; each job counts the same."""
    found = [jobs.get(job.id) for job in submitted]
    done = sum((job.done + job.failed) / job.total for job in found if job.total)
    return done >= share * len(submitted)


def _restart(server: RedisServer | Watched) -> None:
    """Restart a server, or let a replica take over and restart the server as its replica."""
    if isinstance(server, Watched):
        server.fail_over()
        server.restart_replica()
        return
    server.process.terminate()
    server.process.wait()
    server.start_again()


def _check(job: Job, expected: Result) -> list[str]:
    """Describe how a job differs from its expected result."""
    if job.state != "done":
        return [f"{job.state} ({job.error})"]
    actual = (job.total, job.done, job.failed)
    counts = tuple(expected.summary[name] for name in ("total", "done", "failed"))
    failures = [f"the job counts {actual}, not {counts}"] if actual != counts else []
    return failures + read_result(Path(job.output)).differences(expected)


def read_result(output: Path) -> Result:
    """Read the output folder of a job that is done."""
    files = {
        path.name: path.read_bytes() if path.name.startswith(("predictions", "_errors")) else b""
        for path in output.iterdir()
    }
    assert "_SUCCESS" in files, sorted(files)
    summary = json.loads((output / "_summary.json").read_text())
    fields = {name: value for name, value in summary.items() if name not in VARYING_FIELDS}
    return Result(files, fields)


if __name__ == "__main__":
    sys.exit(main())
