"""`python -m tests.chaos [--minutes N] [--seed N]`: bulk scoring while workers are killed and Redis is restarted, again and again.

In each round a few workers score four jobs. At moments of the seed, which are shares of the work, one of them is killed (`kill -9`) and
another one started, or Redis is stopped (SIGTERM, its append-only file flushed each second) and started again. What comes of the jobs is
to be, byte for byte, what one worker makes of the same sources undisturbed.
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

from bench.__main__ import exit_code
from loupe.redis_server import open_redis
from loupe.settings import Settings
from loupe.store import StoredModel, find_model
from loupe.terminal import console
from tests import pictures
from tests.programs import run, running, until
from tests.redis_servers import RedisServer, redis_server
from worker.jobs import ENDED, Job, Jobs
from worker.submission import submit
from worker.supervisor import WELL

MINUTES = 10.0
WORKERS = 3
KILLS, RESTARTS = 9, 3  # in a round
SHARD_IMAGES = (
    250  # so few that hardly any shard is there when five workers are killed, after which its records were to blame
)
LATEST = 0.95  # of the work; what comes later may come too late
MOST_PAUSE_SECONDS = 0.5  # progress is seen when a shard is committed, and not only then is something to happen
ARRAY_IMAGES, PICTURES, BROKEN = 12_000, 1_200, 7
WORKER = {"LOUPE_LEASE_SECONDS": 1, "LOUPE_THREADS": 1}
TIMES = {
    "job",
    "workers",
    "started",
    "finished",
    "seconds",
    "images_per_second",
}  # of a summary: what no two jobs have in common
Disturbance: TypeAlias = Literal["kill", "restart"]


@dataclass(frozen=True)
class Result:
    """What is in an output folder.

    Attributes:
        files: The names of all files, and of those with rows or errors their bytes.
        summary: Its counts.
    """

    files: dict[str, bytes]
    summary: dict[str, object]

    def differences(self, other: "Result") -> list[str]:
        """What this one has that the other has not, or has in another way, in words."""
        names = sorted(self.files.keys() ^ other.files.keys())
        rows = sorted(name for name in self.files.keys() & other.files.keys() if self.files[name] != other.files[name])
        counts = sorted(name for name, value in self.summary.items() if other.summary.get(name) != value)
        found = {"only one has": names, "other rows in": rows, "other figures in the summary": counts}
        return [f"{what} {', '.join(which)}" for what, which in found.items() if which]


@dataclass
class Round:
    """What came of a round."""

    done: Counter[Disturbance]
    failures: list[str]
    seconds: float


def main() -> int:
    """Disturb for some minutes; exit code 1 if a job suffered from it or there is no model, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Bulk scoring with many disturbances.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default: {MINUTES:g}")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; default: 0")
    arguments = parser.parse_args()

    def disturb() -> int:
        model, failures = find_model(), 0
        deadline = time.monotonic() + 60 * arguments.minutes
        with tempfile.TemporaryDirectory(prefix="loupe-chaos-") as name:
            sources, expected = prepare(model, Path(name))
            for seed in count(arguments.seed):
                ended = play(model, sources, expected, Path(name) / f"round-{seed}", seed)
                console.print(
                    f"seed {seed}: {len(sources)} jobs, {ended.done['kill']} workers killed, {ended.done['restart']} restarts of Redis, "
                    f"{ended.seconds:.0f} s: {'; '.join(ended.failures) or 'the same as undisturbed'}",
                    highlight=False,
                    soft_wrap=True,
                )
                failures += len(ended.failures)
                if time.monotonic() > deadline:
                    break
        return int(failures > 0)

    return exit_code(disturb)


def prepare(model: StoredModel, folder: Path) -> tuple[list[Path], list[Result]]:
    """An array, a folder, a zip and a tar archive, and what one worker makes of each."""
    array, below = folder / "array.npy", folder / "folder"
    np.save(array, pictures.digits(ARRAY_IMAGES))
    below.mkdir()
    for number, image in enumerate(pictures.digits(PICTURES, seed=1)):
        (below / f"{number:05d}.png").write_bytes(pictures.png(image))
    for number in range(BROKEN):
        (below / f"{number:05d}-broken.png").write_bytes(b"no picture")
    archives = [Path(shutil.make_archive(str(folder / kind), kind, below)) for kind in ("zip", "tar")]
    sources = [array, below, *archives]
    settings = Settings(data_dir=folder / "undisturbed")
    with open_redis(settings) as redis:
        made = [
            submit(Jobs(redis), source, _output(settings.home, source), model.tag, SHARD_IMAGES) for source in sources
        ]
        ended = run("worker", "--burst", **WORKER, LOUPE_DATA_DIR=settings.home)
        assert ended.returncode == 0, ended.stderr
        assert [Jobs(redis).get(job.id).state for job in made] == ["done"] * len(made)
    return sources, [read_result(Path(job.output)) for job in made]


def play(
    model: StoredModel,
    sources: Sequence[Path],
    expected: Sequence[Result],
    folder: Path,
    seed: int,
) -> Round:
    """One round.

    Args:
        model: What scores.
        sources: What is scored.
        expected: What is to come of each.
        folder: For the results, the data of Redis and the logs; made here.
        seed: Of what happens when.
    """
    random, done, begun = Random(seed), Counter[Disturbance](), time.monotonic()
    (folder / "redis").mkdir(parents=True)
    with (
        redis_server(folder / "redis", appendonly="yes", appendfsync="everysec") as server,
        open_redis(Settings(redis_url=server.url)) as redis,
        ExitStack() as stack,
    ):
        jobs = Jobs(redis)
        made = [submit(jobs, source, _output(folder, source), model.tag, SHARD_IMAGES) for source in sources]
        crew = _Crew(folder, server.url, stack)
        for share, disturbance in _disturbances(random):
            until(partial(_is_done, jobs, made, share))
            time.sleep(random.uniform(0, MOST_PAUSE_SECONDS))
            crew.kill(random) if disturbance == "kill" else _restart(server)
            done[disturbance] += 1
        until(lambda: all(jobs.get(job.id).state in ENDED for job in made))
        failures = crew.stop()
        ended = [jobs.get(job.id) for job in made]
    for job, result in zip(ended, expected, strict=True):
        failures += [f"{Path(job.output).name}: {difference}" for difference in _judge(job, result)]
    return Round(done, failures, time.monotonic() - begun)


class _Crew:
    """Workers, so many at a time."""

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self._folder = folder
        self._variables = {**WORKER, "LOUPE_REDIS_URL": url}
        self._stack = stack
        self._started = count()
        self._workers = [self._start() for _ in range(WORKERS)]

    def kill(self, random: Random) -> None:
        """One of them, and start another in its place."""
        place = random.randrange(WORKERS)
        self._workers[place].kill()
        self._workers[place] = self._start()

    def stop(self) -> list[str]:
        """What went wrong with those that nobody has killed."""
        for worker in self._workers:
            worker.terminate()
        codes = [worker.wait() for worker in self._workers]
        return [f"a worker has ended with exit code {code}" for code in codes if code not in WELL]

    def _start(self) -> Popen[bytes]:
        log = self._folder / f"worker-{next(self._started)}.log"
        return self._stack.enter_context(running(log, "worker", **self._variables))


def _disturbances(random: Random) -> list[tuple[float, Disturbance]]:
    """What happens, and the share of the work that is done when it does."""
    kills: list[tuple[float, Disturbance]] = [(random.uniform(0, LATEST), "kill") for _ in range(KILLS)]
    restarts: list[tuple[float, Disturbance]] = [(random.uniform(0, LATEST), "restart") for _ in range(RESTARTS)]
    return sorted(kills + restarts)


def _is_done(jobs: Jobs, made: Sequence[Job], share: float) -> bool:
    """Whether so much of the work is done, all jobs being alike."""
    found = [jobs.get(job.id) for job in made]
    return sum((job.done + job.failed) / job.total for job in found if job.total) >= share * len(made)


def _restart(server: RedisServer) -> None:
    server.process.terminate()
    server.process.wait()
    server.start_again()


def _judge(job: Job, expected: Result) -> list[str]:
    if job.state != "done":
        return [f"{job.state} ({job.error})"]
    counted = (job.total, job.done, job.failed)
    wanted = tuple(expected.summary[name] for name in ("total", "done", "failed"))
    miscounted = [f"its record counts {counted}, not {wanted}"] if counted != wanted else []
    return miscounted + read_result(Path(job.output)).differences(expected)


def read_result(output: Path) -> Result:
    """What a job that is done has left."""
    files = {
        path.name: path.read_bytes() if path.name.startswith(("predictions", "_errors")) else b""
        for path in output.iterdir()
    }
    assert "_SUCCESS" in files, sorted(files)
    summary = json.loads((output / "_summary.json").read_text())
    return Result(files, {name: value for name, value in summary.items() if name not in TIMES})


def _output(folder: Path, source: Path) -> Path:
    return folder / f"of-{source.name}"


if __name__ == "__main__":
    sys.exit(main())
