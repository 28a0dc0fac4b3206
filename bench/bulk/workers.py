"""Worker processes with a Redis for one benchmark, and the jobs they score."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from loupe.jobs import ENDED
from loupe.models.store import StoredModel
from loupe.runtime.ports import free_port
from loupe.runtime.processes import Program, running
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from worker.queue.jobs import Jobs
from worker.queue.keys import WORKERS_GROUP, job_key
from worker.queue.records import Job
from worker.queue.submission import prepare

POLL_SECONDS = 0.002
END_POLL_SECONDS = 0.02  # polling faster would take a fifth of a core from the workers
TIMEOUT_SECONDS = 60.0  # for everything except the end of a job


@dataclass(frozen=True)
class Workers:
    """Running workers.

    Attributes:
        redis: Their Redis.
        jobs: The client side of their queue.
        programs: The processes by process id.
        model: The model that scores.
        folder: Folder for results.
    """

    redis: Redis
    jobs: Jobs
    programs: dict[int, Program]
    model: StoredModel
    folder: Path

    def submit(self, source: Path, shard_images: int | None = None) -> Job:
        """Submit a job, with shards of the default size unless `shard_images` is given."""
        output = Path(tempfile.mkdtemp(dir=self.folder))
        size = shard_images or Settings().shard_images
        prepared = prepare(self.jobs.find, source, output, self.model.tag, size)
        return self.jobs.submit(prepared.request)

    def finish(self, job: Job) -> None:
        """Wait for the end of a job.

        Raises:
            RuntimeError: If the job failed.
        """
        while job.state not in ENDED:
            for program in self.programs.values():
                program.check()
            time.sleep(END_POLL_SECONDS)
            job = self.jobs.get(job.id)
        if job.state == "failed":
            raise RuntimeError(f"job {job.id} failed: {job.error}")

    def score(self, source: Path) -> None:
        """Submit a job and wait for its end."""
        self.finish(self.submit(source))

    def holder(self, job: Job) -> str | None:
        """Return the name of a worker that has claimed a shard of a running job, if any."""
        if self.jobs.get(job.id).state != "running":
            return None
        pending = self.redis.xpending_range(job_key(job.id, "steps"), WORKERS_GROUP, "-", "+", 1)
        return str(pending[0]["consumer"]) if pending else None

    def kill(self, name: str) -> None:
        """Kill a worker with SIGKILL. Its name contains its process id."""
        pid = int(name.rsplit("-", 2)[1])
        self.programs.pop(pid).process.kill()


@contextmanager
def working(
    model: StoredModel, folder: Path, count: int = 1, *, pinned: bool = False
) -> Iterator[Workers]:
    """Run workers while the block lasts. They are ready for jobs.

    Args:
        model: The model that scores.
        folder: Folder for their Redis, logs and results.
        count: Number of processes.
        pinned: Whether each of them runs on one core of its own, as in a small container.
    """
    home = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "loupe", "worker"]
    variables = {"LOUPE_DATA_DIR": str(home)}
    with open_redis(Settings(data_dir=home)) as redis, ExitStack() as stack:
        programs: dict[int, Program] = {}
        for number in range(count):
            log = home / f"{number}.log"
            pinning = ["taskset", "--cpu-list", str(number)] if pinned else []
            program = running("loupe worker", pinning + command, environment=variables, log=log)
            started = stack.enter_context(program)
            programs[started.process.pid] = started
        workers = Workers(redis, Jobs(redis), programs, model, home)
        wait_until(lambda: len(workers.jobs.workers()) == count)
        yield workers


def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as a condition is true.

    Raises:
        TimeoutError: If it is still false after `TIMEOUT_SECONDS`.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition is still false after {TIMEOUT_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


@contextmanager
def redis_over_tcp(folder: Path) -> Iterator[str]:
    """Run an empty Redis on a TCP port, with the persistence of the embedded one; yield its URL."""
    home = Path(tempfile.mkdtemp(dir=folder))
    with open_redis(Settings(data_dir=home)) as redis:
        executable = str(redis.info("server")["executable"])  # the one that Loupe would start
    port = free_port()
    command = [executable, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    with (
        running("redis-server", command, log=home / "log") as program,
        Redis(port=port, retry=Retry(NoBackoff(), 0)) as client,
    ):

        def is_ready() -> bool:
            program.check()
            try:
                return bool(client.ping())
            except RedisConnectionError:
                return False

        wait_until(is_ready)
        yield f"redis://127.0.0.1:{port}/0"
