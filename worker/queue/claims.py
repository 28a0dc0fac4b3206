"""The worker side of the queue: claim a step, renew its lease, and commit, retry or release it.

A step is delivered at least once. The number of its claim is its fence: every change is a Lua
script that checks the fence first, so each step takes effect exactly once.
"""

import json
import random
import re
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from loupe.jobs import ENDED, PRIORITIES, Priority
from worker.queue.jobs import KEEP_SECONDS
from worker.queue.keys import (
    WAKE,
    WORKERS,
    WORKERS_GROUP,
    active_key,
    job_key,
    job_keys,
    load_script,
    server_time,
    waiting_key,
)
from worker.queue.records import ErrorLimit, JobPlan
from worker.queue.steps import Finish, Step, decode, encode, without

MAX_STARTED = 32  # jobs of one priority that share the workers while they have enough steps
START_EVERY = 4  # claims, so that a short job need not wait for the end of a long one
SLICE = 500  # shards that one script adds; others wait for Redis until it ends
MAX_DELAYED = 100  # delayed steps that become due in one script
FORGET_SECONDS = 60.0  # after the last heartbeat of a worker
BACKOFF_SECONDS = 0.5  # before the second attempt; doubles with each further one
MAX_BACKOFF_SECONDS = 30.0
MAX_WOKEN = 64  # workers, when a job is planned; others look for steps a moment later
FINISH = encode(Finish())
NO_LIMIT = ErrorLimit(-1, "")
IS_LAST = 2  # result of `commit_shard.lua`
SHARD_NAME = re.compile(r"shard-(\d+)(\+\d+)?")  # number and generation
FENCED = (
    *("renew", "drop", "release", "replace", "retry", "dead_letter"),
    *("stage", "commit_plan", "commit_shard", "commit_finish"),
)


def backoff_seconds(attempt: int) -> float:
    """Return the random pause after an attempt, so that workers do not retry in step."""
    pause = min(BACKOFF_SECONDS * 2.0 ** (attempt - 1), MAX_BACKOFF_SECONDS)
    return pause * random.uniform(0.5, 1.5)  # noqa: S311 - not for security


@dataclass(frozen=True)
class Delivery:
    """A claimed step.

    Attributes:
        job_id: Id of its job.
        step: What to do.
        message: Id of the step in the stream.
        attempt: Number of this claim of the step, from 1: the fence.
    """

    job_id: str
    step: Step
    message: str
    attempt: int


class Claims:
    """One worker's view of the queue. Methods that return a bool return `False` if the fence fails.

    Args:
        redis: A client that decodes responses.
        worker: Unique name of this worker.
        lease_seconds: Time without renewal after which other workers may claim a step.
        max_attempts: Attempts after which a job fails.
        keep_seconds: How long the record of an ended job is kept.
    """

    def __init__(
        self,
        redis: Redis,
        worker: str,
        *,
        lease_seconds: float,
        max_attempts: int,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self.worker = worker
        self.lease_seconds = lease_seconds
        self.max_attempts = max_attempts
        self._keep_seconds = round(keep_seconds)
        self._redis = redis
        self._claimed = 0
        self._claim = load_script(redis, "claim")
        self._scripts = {name: load_script(redis, name, fenced=True) for name in FENCED}

    def claim(self) -> Delivery | None:
        """Claim the next step, or return `None` if no job has one.

        Started jobs take turns, by priority. Waiting ones start when these leave workers idle, and
        now and then otherwise: planning all jobs first would finish all of them late.
        """
        with self._redis.pipeline(transaction=False) as pipeline:  # most lists are empty
            for priority in PRIORITIES:
                pipeline.lmove(active_key(priority), active_key(priority), "LEFT", "RIGHT")
                pipeline.llen(active_key(priority))
                pipeline.llen(waiting_key(priority))
            found = iter(pipeline.execute())
        for priority, first, started, waiting in zip(PRIORITIES, found, found, found, strict=True):
            is_turn = self._claimed % START_EVERY == START_EVERY - 1 and started < MAX_STARTED
            delivery = (
                (waiting and is_turn and self._start_job(priority))
                or self._continue_job(priority, first)
                or (waiting and self._start_job(priority))
            )
            if delivery:
                self._claimed += 1
                return delivery
        return None

    def _continue_job(self, priority: Priority, job_id: str | None) -> Delivery | None:
        """Claim a step of a started job; each one goes to the end of the list."""
        active, seen = active_key(priority), set[str]()
        while job_id is not None and job_id not in seen:
            if delivery := self._claim_step(priority, job_id):
                return delivery
            seen.add(job_id)
            job_id = cast("str | None", self._redis.lmove(active, active, "LEFT", "RIGHT"))
        return None

    def _start_job(self, priority: Priority) -> Delivery | None:
        """Claim the plan of a waiting job."""
        waiting, active = waiting_key(priority), active_key(priority)
        while (job_id := self._redis.lmove(waiting, active, "LEFT", "RIGHT")) is not None:
            if delivery := self._claim_step(priority, cast(str, job_id)):
                return delivery
        return None

    def _claim_step(self, priority: Priority, job_id: str) -> Delivery | None:
        lease_ms = int(self.lease_seconds * 1000)
        args: list[str | int] = [WORKERS_GROUP, self.worker, lease_ms, FINISH, MAX_DELAYED]
        claimed: Any = self._claim(keys=job_keys(job_id), args=args)
        if claimed == "gone":
            self._remove_ended(priority, job_id)
        elif claimed:
            message, step, attempt = claimed
            return Delivery(job_id, decode(step), message, int(attempt))
        return None

    def _remove_ended(self, priority: Priority, job_id: str) -> None:
        """Remove a job from the list, unless Redis has restarted and lost that the job ended."""
        active = active_key(priority)
        self._redis.lrem(active, 0, job_id)
        state = cast("str | None", self._redis.hget(job_key(job_id), "state"))
        if state is not None and state not in ENDED:
            self._redis.rpush(active, job_id)

    def wait(self, seconds: float) -> None:
        """Wait at most `seconds` for a new job."""
        self._redis.blpop([WAKE], seconds)

    def renew(self, delivery: Delivery, scored: int) -> bool:
        """Restart the lease and store the progress; `False` too if the job was cancelled."""
        return bool(self._run("renew", delivery, self.worker, scored))

    def drop(self, delivery: Delivery) -> bool:
        """Acknowledge a step without doing it; `False` too if the job is not cancelled."""
        return bool(self._run("drop", delivery))

    def release(self, delivery: Delivery) -> bool:
        """Return the step to the queue; the attempt does not count."""
        return bool(self._run("release", delivery, encode(delivery.step)))

    def replace(self, delivery: Delivery, step: Step) -> bool:
        """Replace the step by another one."""
        return bool(self._run("replace", delivery, encode(step)))

    def fail(self, delivery: Delivery, error: str, *, final: bool | None = None) -> bool:
        """Schedule another attempt, or fail the job with the step as its dead letter.

        Args:
            delivery: The step.
            error: Why it failed.
            final: Whether the job fails; by default after `max_attempts`.
        """
        step = encode(delivery.step)
        if delivery.attempt >= self.max_attempts if final is None else final:
            ending = (step, error, self._now(), self._keep_seconds)
            return bool(self._run("dead_letter", delivery, *ending))
        return bool(self._run("retry", delivery, step, backoff_seconds(delivery.attempt)))

    def commit_plan(
        self, delivery: Delivery, plan: JobPlan, limit: ErrorLimit | None = None
    ) -> bool:
        """Enqueue the shards of a planned job.

        Args:
            delivery: Its first step.
            plan: The plan.
            limit: The job fails if more images of kept parts are errors.
        """
        kept = plan.kept
        left = without(plan.shards, kept)
        for start in range(0, max(len(left), len(kept), 1), SLICE):
            names = json.dumps([f"shard-{index}" for index in kept[start : start + SLICE]])
            steps = map(encode, left[start : start + SLICE])
            if not self._run("stage", delivery, int(start == 0), names, *steps):
                return False
        counts = (plan.done, plan.failed, len(left) + len(kept), len(left))
        committed = self._run(
            "commit_plan",
            delivery,
            *(plan.total, plan.revision, self._now()),
            *counts,
            FINISH,
            json.dumps(plan.skipped),
            *(limit or NO_LIMIT),
            self._keep_seconds,
        )
        if committed and left:
            self._wake(len(left) - 1)  # this worker takes one shard itself
        elif committed:
            self._prefer(delivery.job_id)
        return bool(committed)

    def commit_shard(
        self, delivery: Delivery, done: int, failed: int, limit: ErrorLimit | None = None
    ) -> bool:
        """Count a shard whose part is written; the last one enqueues the final step.

        Args:
            delivery: The shard.
            done: Images scored in it.
            failed: Images of it that could not be read.
            limit: The job fails if more images are errors.
        """
        committed = self._run(
            "commit_shard", delivery, done, failed, FINISH, *(limit or NO_LIMIT), self._keep_seconds
        )
        if committed == IS_LAST:
            self._prefer(delivery.job_id)
        return bool(committed)

    def _wake(self, count: int) -> None:
        """Wake at most `count` idle workers, which would notice new steps later."""
        waking = min(count, MAX_WOKEN)
        if waking:
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.lpush(WAKE, *[self.worker] * waking)
                pipeline.ltrim(WAKE, 0, MAX_WOKEN - 1)
                pipeline.execute()

    def _prefer(self, job_id: str) -> None:
        """Make a job the next one of its priority, so that it ends before others continue."""
        priority = cast("Priority | None", self._redis.hget(job_key(job_id), "priority"))
        if priority is not None:
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.lrem(active_key(priority), 0, job_id)
                pipeline.lpush(active_key(priority), job_id)
                pipeline.execute()

    def commit_finish(self, delivery: Delivery) -> bool:
        """End the job as `done` or `cancelled`."""
        return bool(self._run("commit_finish", delivery, self._now(), self._keep_seconds))

    def committed_shards(self, job_id: str) -> list[int]:
        """Return the numbers of the shards whose parts are counted."""
        fences = self._redis.hscan_iter(job_key(job_id, "fences"), count=SLICE)
        names = [name for name, fence in fences if fence == "committed"]
        return sorted({int(match[1]) for match in map(SHARD_NAME.fullmatch, names) if match})

    def send_heartbeat(self) -> None:
        """Record that this worker is alive, and forget those that were killed."""
        now = self._now()
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zadd(WORKERS, {self.worker: now})
            pipeline.zremrangebyscore(WORKERS, "-inf", now - FORGET_SECONDS)
            pipeline.execute()

    def leave(self) -> None:
        """Remove this worker from the list of live workers."""
        self._redis.zrem(WORKERS, self.worker)

    def _now(self) -> float:
        return server_time(self._redis)

    def _run(self, script: str, delivery: Delivery, *args: str | float) -> int:
        fence = (delivery.step.name, delivery.attempt, delivery.message, WORKERS_GROUP)
        return cast(
            int, self._scripts[script](keys=job_keys(delivery.job_id), args=[*fence, *args])
        )
