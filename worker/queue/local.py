"""The queue of one job in this process, without Redis: `loupe score --local`."""

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from loupe.errors import JobNotFound
from loupe.jobs import ENDED
from worker.queue.claims import Delivery, backoff_seconds
from worker.queue.records import ErrorLimit, Job, JobPlan, JobRequest
from worker.queue.steps import Finish, Plan, Shard, Step, without


class LocalQueue:
    """The queue of one job in memory; its methods are those of `Claims` and `Jobs`.

    Args:
        request: The request of the job.
        max_attempts: Attempts after which the job fails.
        planned: The job, if its parts are all written and only the final step is left.
        max_errors: See `Job`.

    Attributes:
        interrupted: Set it to cancel the job; finished parts stay.
        abandoned: Whether a thread still does unneeded work when the job has ended.
    """

    worker = "local"
    lease_seconds = 1.0

    def __init__(
        self,
        request: JobRequest,
        max_attempts: int,
        planned: Job | None = None,
        max_errors: str | None = None,
    ) -> None:
        self.interrupted = threading.Event()
        self.abandoned = False
        self.max_attempts = max_attempts
        self.job_id = request.job_id
        new = Job(id=self.job_id, state="queued", created=time.time(), **dict(request))
        self._job = planned or replace(new, max_errors=max_errors)
        self._waiting: deque[Step] = deque([Finish() if planned else Plan()])
        self._attempts: Counter[str] = Counter()
        self._scored: dict[str, int] = {}  # by name of the step in flight
        self._committed: list[int] = []
        self._left: set[int] = set()  # shards that are not committed
        self._changing = threading.RLock()

    def get(self, job_id: str) -> Job:
        """See `Jobs.get`."""
        if job_id != self.job_id:
            raise JobNotFound(f"No job has the id {job_id!r}.")
        with self._changing:
            return replace(self._job, done=self._job.done + sum(self._scored.values()))

    find = get

    def workers(self) -> Sequence[str]:
        """Return the only worker."""
        return [self.worker]

    def claim(self) -> Delivery | None:
        """See `Claims.claim`."""
        with self._changing:
            if self._job.state in ENDED:
                return None
            if self.interrupted.is_set() and self._job.state in ("queued", "planning", "running"):
                self._update(state="cancelling")
                self._waiting.clear()
            if self._job.state == "cancelling" and not self._scored and not self._waiting:
                self._close()
            if not self._waiting:
                return None
            step = self._waiting.popleft()
            self._attempts[step.name] += 1
            self._scored[step.name] = 0
            if self._job.state == "queued":
                self._update(state="planning")
            return Delivery(self.job_id, step, "", self._attempts[step.name])

    def wait(self, seconds: float) -> None:
        """See `Claims.wait`."""
        self.interrupted.wait(seconds)

    def renew(self, delivery: Delivery, scored: int) -> bool:
        """See `Claims.renew`."""
        with self._changing:
            # The lease of a shard may be renewed until after its commit, which counts it.
            if isinstance(delivery.step, Shard) and delivery.step.name in self._scored:
                self._scored[delivery.step.name] = scored
        return isinstance(delivery.step, Finish) or not self.interrupted.is_set()

    def drop(self, delivery: Delivery) -> bool:
        """See `Claims.drop`."""
        with self._changing:
            self._scored.pop(delivery.step.name, None)
        return True

    def release(self, delivery: Delivery) -> bool:
        """End the job: its step does not end in time after an interruption."""
        with self._changing:
            self._end(state="cancelled")
        return self.drop(delivery)

    def replace(self, delivery: Delivery, step: Step) -> bool:
        """See `Claims.replace`."""
        with self._changing:
            self._waiting.appendleft(step)
        return self.drop(delivery)

    def fail(self, delivery: Delivery, error: str, *, final: bool) -> bool:
        """See `Claims.fail`; the pause before another attempt delays the other steps, too."""
        if not final:
            self.interrupted.wait(backoff_seconds(delivery.attempt))
        with self._changing:
            self._waiting.appendleft(delivery.step)
            if final:
                self._end(state="failed", error=error)
        return self.drop(delivery)

    def commit_plan(
        self, delivery: Delivery, plan: JobPlan, limit: ErrorLimit | None = None
    ) -> bool:
        """See `Claims.commit_plan`."""
        with self._changing:
            self._update(total=plan.found, revision=plan.revision, started=time.time())
            self._update(shards=len(plan.shards), skipped_files=plan.skipped)
            self._start(plan.shards, plan.kept, plan.done, plan.failed)
            self._check_errors(limit)
            return self._complete(delivery)

    def commit_shard(
        self, delivery: Delivery, done: int, failed: int, limit: ErrorLimit | None = None
    ) -> bool:
        """See `Claims.commit_shard`."""
        assert isinstance(delivery.step, Shard)
        with self._changing:
            self._committed.append(delivery.step.index)
            self._left.discard(delivery.step.index)
            self._update(done=self._job.done + done, failed=self._job.failed + failed)
            self._check_errors(limit)
            return self._complete(delivery)

    def commit_finish(self, delivery: Delivery) -> bool:
        """See `Claims.commit_finish`."""
        with self._changing:
            self._end(state="cancelled" if self._job.state == "cancelling" else "done")
        return self.drop(delivery)

    def committed_shards(self, _: str) -> Sequence[int]:
        """See `Claims.committed_shards`."""
        return sorted(self._committed)

    def send_heartbeat(self) -> None:
        """Do nothing: only this process asks for the worker."""

    leave = send_heartbeat

    def _start(self, shards: Sequence[Shard], kept: Sequence[int], done: int, failed: int) -> None:
        """Add the shards whose parts are not kept, in which `done` and `failed` are counted."""
        self._committed += kept
        left = without(shards, kept)
        self._left.update(shard.index for shard in left)
        self._waiting.extend(left)
        self._update(state="running", done=done, failed=failed)

    def _check_errors(self, limit: ErrorLimit | None) -> None:
        """End a running job of which too many images are errors."""
        if limit and self._job.failed > limit.images and self._job.state == "running":
            self._end(state="failed", error=limit.problem)

    def _complete(self, delivery: Delivery) -> bool:
        """Drop a step that is done; the last one adds the final step."""
        if self._job.state == "running" and not self._left:
            self._close()
        return self.drop(delivery)

    def _close(self) -> None:
        """Add the final step."""
        if self._job.state == "running":
            self._update(state="finishing")
        self._waiting.append(Finish())

    def _update(self, **changes: Any) -> None:
        self._job = replace(self._job, **changes)

    def _end(self, **changes: Any) -> None:
        self._waiting.clear()
        self._update(finished=time.time(), **changes)
