"""The loop of a worker: claim a step, run its handler, and commit, retry or drop it."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from redis.exceptions import RedisError

from loupe.errors import Conflict, LoupeError
from loupe.runtime.redis_server import redis_unavailable
from loupe.settings import Settings
from worker.metrics import Metrics, Outcome
from worker.queue.claims import Claims, Delivery
from worker.queue.jobs import Jobs
from worker.queue.local import LocalQueue
from worker.queue.records import PROTOCOL, Job
from worker.queue.steps import Finish, Plan, Probe, Shard
from worker.results import outputs
from worker.scoring.failures import RecordsFailed, judge, max_attempts
from worker.scoring.lease import Lease
from worker.scoring.plan import finish_job, plan_job
from worker.scoring.score import ShardRun, probe_records
from worker.scoring.task import Resources, Task
from worker.storage import parse_path

logger = logging.getLogger(__name__)

MAX_STEPS = 2  # one is scored while the other one is written
IDLE_SECONDS = 0.2  # between claims; a new job wakes one worker earlier
HEARTBEAT_SECONDS = 1.0
STUCK_SECONDS = 0.5  # that a step may run after its lease is lost
REDIS_PAUSE_SECONDS = 1.0  # after the client's own retries have failed


@dataclass(eq=False)
class _Attempt:
    """A claimed step while it is processed."""

    delivery: Delivery
    job: Job
    lease: Lease
    started: float = field(default_factory=time.monotonic)


class Consumer:
    """The loop of one worker. A step is read and scored in the loop, and written in a thread.

    Attributes:
        jobs: The client side of the queue.
        claims: The worker side.
        stopping: Set it to end the loop after the steps in flight.
        closing: The same without a stop of the program.
        metrics: Counters of this process.
    """

    def __init__(
        self,
        jobs: Jobs | LocalQueue,
        claims: Claims | LocalQueue,
        settings: Settings,
        stopping: threading.Event | None = None,
    ) -> None:
        self.jobs = jobs
        self.claims = claims
        self.stopping = stopping or threading.Event()
        self.metrics = Metrics()
        self._resources = Resources(settings, claims.worker, self.metrics.lost_decoder)
        self._writers = ThreadPoolExecutor(MAX_STEPS, thread_name_prefix="write")
        self._attempts: set[_Attempt] = set()
        self.closing = False
        self._ended = threading.Event()

    def run(self, *, burst: bool = False) -> None:
        """Work until `stopping` is set or, with `burst`, until there is nothing to claim."""
        heartbeat = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)
        heartbeat.start()
        try:
            self._loop(burst=burst)
            self._writers.shutdown()
        finally:
            self._ended.set()
            heartbeat.join()
            self._resources.close()

    @property
    def is_stuck(self) -> bool:
        """True if a step still runs although its job was cancelled or another worker has it."""
        return any(each.lease.lost_seconds > STUCK_SECONDS for each in list(self._attempts))

    def release(self) -> None:
        """Return the steps in flight to the queue and claim no more, from another thread."""
        self.closing = True
        self._ended.set()
        for attempt in list(self._attempts):
            if attempt.lease.release():
                logger.info("released a step that could not be finished in time")
        self.claims.leave()

    def _send_heartbeats(self) -> None:
        while True:
            try:
                self.claims.send_heartbeat()
                if self._ended.wait(HEARTBEAT_SECONDS):
                    self.claims.leave()
                    return
            except RedisError as error:
                logger.warning("no heartbeat: %s", redis_unavailable(error))
                if self._ended.wait(REDIS_PAUSE_SECONDS):
                    return

    def _loop(self, *, burst: bool) -> None:
        writing: list[Future[None]] = []
        while not self.stopping.is_set() and not self.closing:
            writing = [future for future in writing if not future.done()]
            if len(writing) == MAX_STEPS:
                wait(writing, IDLE_SECONDS, FIRST_COMPLETED)
                continue
            try:
                delivery = self.claims.claim()
                if delivery is not None:
                    writing += self._process(delivery)
                elif writing:  # its commit may enqueue another step
                    wait(writing, IDLE_SECONDS, FIRST_COMPLETED)
                elif burst:
                    return
                else:
                    self.claims.wait(IDLE_SECONDS)
            except RedisError as error:
                logger.warning("%s Trying again.", redis_unavailable(error))
                self.stopping.wait(REDIS_PAUSE_SECONDS)

    def _process(self, delivery: Delivery) -> list[Future[None]]:
        """Start a step; return the future that completes it, if it has not failed."""
        job = self.jobs.find(delivery.job_id)
        if job is None:
            logger.warning(
                "job %s is missing in Redis; resume it with: loupe score --resume OUT",
                delivery.job_id,
            )
            return []
        self.metrics.claimed(delivery)
        attempt = _Attempt(delivery, job, Lease(self.claims, delivery))
        self._attempts.add(attempt)
        attempt.lease.start()
        with self._recording_failure(attempt):
            self._check(attempt)
            complete = self._start(attempt)
            return [self._writers.submit(self._complete, attempt, complete)]
        return []

    def _complete(self, attempt: _Attempt, complete: Callable[[], bool]) -> None:
        """Run the rest of a step in a writer thread."""
        try:
            with self._recording_failure(attempt):
                committed = complete()
                self._end(attempt)
                self._report(attempt, committed=committed)
        except RedisError as error:
            logger.warning("%s The step will be claimed again.", redis_unavailable(error))
            with suppress(RedisError):  # else after its lease, as another attempt
                self.claims.release(attempt.delivery)

    @contextmanager
    def _recording_failure(self, attempt: _Attempt) -> Iterator[None]:
        """Record an error on the job, so that the loop continues."""
        try:
            yield
        except CancelledError:  # the lease is lost
            self._end(attempt)
            self._report(attempt, committed=False)
        except BaseException as error:
            self._end(attempt)
            if isinstance(error, RedisError) or not isinstance(error, Exception):
                raise
            self._fail(attempt, error)

    def _end(self, attempt: _Attempt) -> None:
        attempt.lease.stop()
        self._attempts.discard(attempt)

    def _check(self, attempt: _Attempt) -> None:
        job, delivery = attempt.job, attempt.delivery
        if job.protocol != PROTOCOL:
            raise Conflict(
                f"Job '{job.id}' uses protocol {job.protocol}; this worker supports {PROTOCOL}. "
                "Upgrade both to the same version of Loupe.",
                code="contract_differs",
            )
        limit = max_attempts(delivery.step, self.claims.max_attempts)
        if delivery.attempt > limit:
            raise RecordsFailed(f"the workers of all {limit} attempts died")

    def _start(self, attempt: _Attempt) -> Callable[[], bool]:
        """Read and score; return the rest, which writes and returns whether it has committed."""
        job, delivery = attempt.job, attempt.delivery
        task = Task(job, attempt.lease, self._resources)
        match delivery.step:
            case Plan():
                plan = plan_job(task)
                limit = replace(job, total=plan.found, skipped_files=plan.skipped).error_limit
                return lambda: self.claims.commit_plan(delivery, plan, limit)
            case Shard() as shard:
                run = ShardRun(task, shard)
                run.start()
                return lambda: self._write_shard(attempt, shard, run)
            case Probe() as probe:
                successor = probe_records(task, probe)
                return lambda: successor is not None and self.claims.replace(delivery, successor)
            case Finish():
                return lambda: self._finish(task, delivery)

    def _write_shard(self, attempt: _Attempt, shard: Shard, run: ShardRun) -> bool:
        result = run.complete()
        if result is None:
            return False
        failed = len(result.codes)
        committed = not attempt.lease.lost and self.claims.commit_shard(
            attempt.delivery, result.done, failed, attempt.job.error_limit
        )
        if committed:
            self.metrics.committed(result.done, result.codes, result.clock)
        else:
            output = parse_path(attempt.job.folder)
            outputs.remove_uncommitted(output, attempt.job, shard.index)
        return committed

    def _finish(self, task: Task, delivery: Delivery) -> bool:
        job = task.job
        cancelling = job.state == "cancelling"
        finish_job(task, self.claims.committed_shards(job.id) if cancelling else range(job.shards))
        return self.claims.commit_finish(delivery)

    def _fail(self, attempt: _Attempt, error: Exception) -> None:
        """Retry the step, replace it, or fail its job."""
        delivery = attempt.delivery
        failure = judge(delivery.step, delivery.attempt, error, self.claims.max_attempts)
        logger.warning(
            "job %s, %s, attempt %d failed: %s",
            attempt.job.id,
            delivery.step.name,
            delivery.attempt,
            failure.message,
            exc_info=None if isinstance(error, LoupeError) else error,
        )
        if failure.successor is not None:
            self.claims.replace(delivery, failure.successor)
        else:
            self.claims.fail(delivery, failure.message, final=failure.final)
        self.metrics.ended(delivery, "failed" if failure.final else "retried")

    def _report(self, attempt: _Attempt, *, committed: bool) -> None:
        delivery = attempt.delivery
        outcome: Outcome = "done"
        if not committed:
            outcome = "cancelled" if self.claims.drop(delivery) else "lost"
        self.metrics.ended(delivery, outcome)
        logger.info(
            "job %s, %s, attempt %d: %s, %.2f s",
            attempt.job.id,
            delivery.step.name,
            delivery.attempt,
            "lost to another worker" if outcome == "lost" else outcome,
            time.monotonic() - attempt.started,
        )


def worker_name() -> str:
    """Return a unique name: host, process, and random letters for containers that look alike."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
