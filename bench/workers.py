"""Worker processes with a queue of their own, and the jobs they are given."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from loupe.errors import JobFailed
from loupe.processes import Program, running
from loupe.redis_server import open_redis
from loupe.settings import Settings
from loupe.store import StoredModel
from worker.jobs import ENDED, WORKERS_GROUP, Job, Jobs, steps_key
from worker.submission import submit

POLL_SECONDS = 0.002
END_POLL_SECONDS = 0.02  # as fast as the others', it would take a fifth of a core from those who work
PATIENCE_SECONDS = 60.0  # for anything but the end of a job


@dataclass(frozen=True)
class Workers:
    """Workers that wait for jobs, and nobody else's.

    Attributes:
        redis: Their queue's.
        jobs: The client side of their queue.
        programs: The processes, by their ids.
        model: What scores.
        folder: For results.
    """

    redis: Redis
    jobs: Jobs
    programs: dict[int, Program]
    model: StoredModel
    folder: Path

    def submit(self, source: Path, shard_images: int | None = None) -> Job:
        """Have a source scored, in shards as large as usual if nothing is said of them."""
        output = Path(tempfile.mkdtemp(dir=self.folder))
        return submit(self.jobs, source, output, self.model.tag, shard_images or Settings().shard_images)

    def finish(self, job: Job) -> None:
        """Wait until a job has ended; `JobFailed` if it failed."""
        while job.state not in ENDED:
            for program in self.programs.values():
                program.check()
            time.sleep(END_POLL_SECONDS)
            job = self.jobs.get(job.id)
        if job.state == "failed":
            raise JobFailed(job.id, str(job.error))

    def score(self, source: Path) -> None:
        """Have a source scored from beginning to end."""
        self.finish(self.submit(source))

    def holder(self, job: Job) -> str | None:
        """The name of a worker that has a shard of a running job in hand, if there is one."""
        if self.jobs.get(job.id).state != "running":
            return None
        pending = self.redis.xpending_range(steps_key(job.id), WORKERS_GROUP, "-", "+", 1)
        return str(pending[0]["consumer"]) if pending else None

    def kill(self, name: str) -> None:
        """`kill -9` of the worker by that name, which has its process's id in it."""
        pid = int(name.rsplit("-", 2)[1])
        self.programs.pop(pid).process.kill()


@contextmanager
def working(model: StoredModel, folder: Path, count: int = 1, **environment: str) -> Iterator[Workers]:
    """Workers, ready for jobs, while a block lasts.

    Args:
        model: What scores.
        folder: For their queue, their logs and the results.
        count: Of processes.
        environment: More variables for all of them.
    """
    home = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "loupe.cli", "worker"]
    variables = {"LOUPE_DATA_DIR": str(home), **environment}
    with open_redis(Settings(data_dir=home)) as redis, ExitStack() as stack:
        programs = [
            stack.enter_context(running("loupe worker", command, environment=variables, log=home / f"{number}.log"))
            for number in range(count)
        ]
        workers = Workers(redis, Jobs(redis), {each.process.pid: each for each in programs}, model, home)
        until(lambda: len(workers.jobs.workers()) == count)
        yield workers


def until(condition: Callable[[], object]) -> None:
    """Return once a condition is true; `TimeoutError` if it does not become so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"what was waited for has not come about in {PATIENCE_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
