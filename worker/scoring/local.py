"""Score one job in this process, without Redis: `loupe score --local`."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from loupe.errors import JobNotFound
from loupe.jobs import JobState
from loupe.settings import Settings
from worker.queue.claims import backoff_seconds
from worker.queue.jobs import Job, JobRequest
from worker.queue.steps import Finish, Plan, Probe, Shard, Step
from worker.scoring.failures import judge
from worker.scoring.lease import Progress
from worker.scoring.plan import finish_job, plan_job
from worker.scoring.score import ShardRun, probe_records
from worker.scoring.task import Resources, Task

logger = logging.getLogger(__name__)

SHARDS_AT_A_TIME = 2  # one is scored while the other one is written


class LocalRun:
    """One job in this process: plan, shards, finish.

    Attributes:
        job_id: The job's id.
        interrupted: Set it to cancel the job; finished parts stay.
    """

    def __init__(self, settings: Settings, request: JobRequest) -> None:
        self.interrupted = threading.Event()
        self.job_id = request.job_id
        self._max_attempts = settings.max_attempts
        self._resources = Resources(settings, "local")
        self._job = Job(id=self.job_id, state="queued", created=time.time(), **dict(request))
        self._changing = threading.Lock()
        self._shards: list[Shard] = []
        self._committed: list[int] = []
        self._in_flight: dict[int, Progress] = {}  # by number of the shard

    def get(self, job_id: str) -> Job:
        """Return the job, as `Jobs.get` does."""
        if job_id != self.job_id:
            raise JobNotFound(f"No job has the id {job_id!r}.")
        with self._changing:
            scored = sum(progress.scored for progress in self._in_flight.values())
            return replace(self._job, done=self._job.done + scored)

    def workers(self) -> Sequence[str]:
        """Return the only worker."""
        return [self._resources.worker]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the job in a thread while the block runs, and wait for it at the end."""
        with ThreadPoolExecutor(1, thread_name_prefix="local") as threads:
            run = threads.submit(self.run)
            yield
            run.result()

    def run(self) -> None:
        """Score the whole job. Errors become the error of the job."""
        try:
            self._job = replace(self._job, state="planning")
            self._do(Plan())
            with ThreadPoolExecutor(SHARDS_AT_A_TIME, thread_name_prefix="shard") as threads:
                list(threads.map(self._do, self._shards))
            self._do(Finish())
        finally:
            self._resources.close()

    def _do(self, step: Step) -> None:
        """Attempt a step, and those that replace it, until one succeeds or the job fails."""
        pending: Step | None = step
        attempt = 0
        while pending is not None and not self._is_over(pending):
            attempt += 1
            try:
                successor: Step | None = self._attempt(pending)
            except Exception as error:  # the border of the loop, as in a worker
                logger.info("%s, attempt %d failed", pending.name, attempt, exc_info=True)
                failure = judge(pending, attempt, error, self._max_attempts)
                if failure.final:
                    self._fail(failure.message)
                    return
                successor = failure.successor
                if successor is None:
                    self.interrupted.wait(backoff_seconds(attempt))
                    continue
            pending, attempt = successor, 0

    def _is_over(self, step: Step) -> bool:
        is_interrupted = self.interrupted.is_set() and isinstance(step, Shard | Probe)
        return self._job.state == "failed" or is_interrupted

    def _attempt(self, step: Step) -> Shard | Probe | None:
        """Run a step; return the one that replaces it, if any."""
        progress = Progress(self.interrupted)
        task = Task(self._job, progress, self._resources)
        match step:
            case Plan():
                self._plan(task)
            case Shard():
                self._score(task, step)
            case Probe():
                return probe_records(task, step)
            case Finish():
                self._finish()
        return None

    def _plan(self, task: Task) -> None:
        plan = plan_job(task)
        self._shards = plan.shards
        self._committed = list(plan.kept)
        self._job = replace(
            self._job,
            state="running",
            total=plan.total,
            revision=plan.revision,
            shards=len(plan.shards) + len(plan.kept),
            started=time.time(),
            done=plan.done,
            failed=plan.failed,
        )

    def _score(self, task: Task, shard: Shard) -> None:
        with self._changing:
            self._in_flight[shard.index] = task.progress
        try:
            run = ShardRun(task, shard)
            run.start()
            result = run.complete()
        finally:
            with self._changing:
                del self._in_flight[shard.index]
        if result is not None:
            with self._changing:
                self._committed.append(shard.index)
                done, failed = self._job.done + result.done, self._job.failed + len(result.codes)
                self._job = replace(self._job, done=done, failed=failed)

    def _finish(self) -> None:
        cancelled = self.interrupted.is_set()
        self._job = replace(self._job, state="cancelling" if cancelled else "finishing")
        finish_job(Task(self._job, Progress(), self._resources), sorted(self._committed))
        state: JobState = "cancelled" if cancelled else "done"
        self._job = replace(self._job, state=state, finished=time.time())

    def _fail(self, message: str) -> None:
        with self._changing:
            self._job = replace(self._job, state="failed", error=message, finished=time.time())
