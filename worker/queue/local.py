"""A queue of one job in this process's memory, for `loupe score --local`: the same steps, plans and parts as through Redis."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from loupe.jobs import Priority
from loupe.old_errors.worker import JobNotFound
from loupe.settings import Settings
from worker.queue.claims import Delivery, backoff_seconds
from worker.queue.jobs import Job, JobRequest
from worker.queue.steps import FinishStep, PlanStep, Shard, Step
from worker.scoring.consumer import Consumer

PROGRESS_SECONDS = 0.1  # between looks at how far a shard is


class LocalQueue:
    """What `Jobs` and `Queue` are to many processes, for one job and one worker in this one.

    Args:
        max_attempts: Times a step is tried before the job has failed.

    Attributes:
        interrupted: Set it, and the job is cancelled.
    """

    worker = "local"
    lease_seconds = 4 * PROGRESS_SECONDS  # which is renewed after a quarter of it

    def __init__(self, max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self.interrupted = threading.Event()
        self._turn = threading.RLock()
        self._come = threading.Condition(self._turn)
        self._job: Job | None = None
        self._steps: deque[Step] = deque()
        self._delayed: list[tuple[float, Step]] = []
        self._attempts: Counter[str] = Counter()
        self._committed: set[str] = set()
        self._remaining = 0
        self._in_hand: dict[str, int] = {}  # names of steps, and how many images of each are scored

    # The job

    def submit(
        self,
        request: JobRequest,
        *,
        priority: Priority = "normal",
        most_in_flight: int | None = None,
    ) -> Job:
        """Begin the job; see `Jobs.submit`."""
        with self._turn:
            self._job = Job(
                id=request.job_id,
                state="queued",
                model=request.model,
                model_digest=request.model_digest,
                source=request.source,
                output=request.output,
                shard_images=request.shard_images,
                shards=0,
                total=None,
                done=0,
                failed=0,
                created=time.time(),
                started=None,
                finished=None,
                revision="",
                error=None,
                options=request.options,
                priority=priority,
                most_in_flight=most_in_flight,
            )
            self._put(PlanStep())
            return self._job

    def find(self, job_id: str) -> Job | None:
        """The job, if it has that id."""
        with self._turn:
            job = self._job
            if job is None or job.id != job_id:
                return None
            return replace(job, done=job.done + sum(self._in_hand.values()))

    def get(self, job_id: str) -> Job:
        """The job; `JobNotFound` if it has another id."""
        job = self.find(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    def _cancel(self) -> None:
        """Score no more; what is finished stays."""
        if self._job is not None and self._job.state in {"queued", "planning", "running"}:
            self._change(state="cancelling")
            self._delayed.clear()
            self._steps.clear()
            self._put(FinishStep())

    def workers(self) -> list[str]:
        """The one that there is."""
        return [self.worker]

    # Its steps

    def claim(self) -> Delivery | None:
        """The next step, if there is one."""
        with self._turn:
            if self.interrupted.is_set():
                self._cancel()
            now = time.monotonic()
            self._steps.extend(step for due, step in self._delayed if due <= now)
            self._delayed = [(due, step) for due, step in self._delayed if due > now]
            if not self._is_ready() or self._job is None:
                return None
            step = self._steps.popleft()
            self._in_hand[step.name] = 0
            self._attempts[step.name] += 1
            if self._job.state == "queued":
                self._change(state="planning")
            return Delivery(self._job.id, step, "", self._attempts[step.name])

    def wait(self, seconds: float) -> None:
        """Wait until there is a step, but no longer than this."""
        with self._come:
            self._come.wait_for(self._is_ready, seconds)

    def renew(self, delivery: Delivery, scored: int) -> bool:
        """Tell how far the step is. False if the job is cancelled."""
        with self._turn:
            if delivery.step.name in self._in_hand:
                self._in_hand[delivery.step.name] = scored
            if self.interrupted.is_set():
                self._cancel()
            return not self._is_cancelled(delivery)

    def give_up(self, delivery: Delivery) -> bool:
        """Put down a step of a job that is cancelled."""
        with self._turn:
            self._put_down(delivery)
            return True

    hand_back = give_up  # nobody else could take it

    def committed_shards(self, job_id: str) -> list[int]:
        """Numbers of the shards whose parts are written and counted."""
        with self._turn:
            return sorted(int(name.removeprefix("shard-")) for name in self._committed)

    def commit_plan(
        self,
        delivery: Delivery,
        total: int,
        revision: str,
        shards: Sequence[Shard],
        kept: Sequence[str] = (),
        done: int = 0,
        failed: int = 0,
    ) -> bool:
        """Go on with the shards; see `Queue.commit_plan`."""
        with self._turn:
            self._put_down(delivery)
            about = {
                "total": total,
                "revision": revision,
                "started": time.time(),
                "done": done,
                "failed": failed,
            }
            self._change(shards=len(shards) + len(kept), **about)
            self._committed = set(kept)
            self._remaining = len(shards)
            if not self._is_cancelled(delivery):
                self._change(state="running" if shards else "finishing")
                self._put(*shards, *([] if shards else [FinishStep()]))
            return True

    def commit_shard(self, delivery: Delivery, done: int, failed: int) -> bool:
        """Count a shard whose part is written; the final step follows the last one."""
        with self._turn:
            self._put_down(delivery)
            self._committed.add(delivery.step.name.partition("+")[0])
            self._remaining -= 1
            if self._job is not None:
                self._change(done=self._job.done + done, failed=self._job.failed + failed)
            if self._remaining == 0 and not self._is_cancelled(delivery):
                self._change(state="finishing")
                self._put(FinishStep())
            return True

    def commit_finish(self, delivery: Delivery) -> bool:
        """End the job well."""
        with self._turn:
            self._put_down(delivery)
            self._change(
                state="cancelled" if self._job and self._job.state == "cancelling" else "done"
            )
            self._change(finished=time.time())
            return True

    def replace(self, delivery: Delivery, step: Step) -> bool:
        """Put another step in the place of this one."""
        with self._turn:
            self._put_down(delivery)
            if not self._is_cancelled(delivery):
                self._put(step)
            return True

    def fail(self, delivery: Delivery, error: str, *, final: bool | None = None) -> None:
        """Try a step again later, or have the job fail; see `Queue.fail`."""
        with self._turn:
            self._put_down(delivery)
            if delivery.attempt >= self.max_attempts if final is None else final:
                self._change(state="failed", error=error, finished=time.time())
                self._steps.clear()
            elif not self._is_cancelled(delivery):
                self._delayed.append(
                    (time.monotonic() + backoff_seconds(delivery.attempt), delivery.step)
                )

    def beat(self) -> None:
        """Nobody asks."""

    def leave(self) -> None:
        """Nobody asks."""

    def _is_ready(self) -> bool:
        """Whether there is a step to claim; the last one waits until nothing else is in hand."""
        return bool(self._steps) and not (self._steps[0].kind == "finish" and self._in_hand)

    def _put_down(self, delivery: Delivery) -> None:
        self._in_hand.pop(delivery.step.name, None)
        self._come.notify_all()

    def _put(self, *steps: Step) -> None:
        self._steps.extend(steps)
        self._come.notify_all()

    def _change(self, **about: object) -> None:
        if self._job is not None:
            self._job = replace(self._job, **about)  # type: ignore[arg-type]

    def _is_cancelled(self, delivery: Delivery) -> bool:
        return (
            self._job is not None
            and self._job.state == "cancelling"
            and delivery.step.kind != "finish"
        )


@contextmanager
def working(settings: Settings) -> Iterator[LocalQueue]:
    """A queue whose job is worked at while the block lasts."""
    queue = LocalQueue(settings.max_attempts)
    consumer = Consumer(queue, queue, settings)
    thread = threading.Thread(target=consumer.run, name="worker")
    thread.start()
    try:
        yield queue
    finally:
        consumer.stopping.set()
        thread.join()
