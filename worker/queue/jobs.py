"""The client side of the queue: submit, find, list and cancel jobs. It imports nothing heavy."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from redis import Redis
from redis.exceptions import ReadOnlyError, ResponseError

from loupe.errors import Conflict, InvalidRequest, JobNotFound, TooManyRequests
from loupe.jobs import ENDED, Priority
from worker.queue.depth import Depth, measure_depth
from worker.queue.keys import (
    JOBS,
    WAKE,
    WEBHOOKS,
    WORKERS,
    WORKERS_GROUP,
    active_key,
    job_key,
    job_keys,
    listing_key,
    load_script,
    server_time,
    waiting_key,
)
from worker.queue.records import PROTOCOL, DeadLetter, Job, JobRequest, parse_job
from worker.queue.steps import Plan, decode, encode
from worker.queue.usage import DailyUsage
from worker.queue.webhooks import PendingWebhooks, submission_of

KEEP_SECONDS = 30 * 24 * 3600  # how long the record of an ended job is kept
HEARTBEAT_TIMEOUT_SECONDS = 5.0  # workers send a heartbeat every second
MAX_JOBS = 20_000  # whose records are kept; one takes 1.5 KB, and 5.5 KB while it waits
MAX_OWNED = 5000  # of one owner, if there are API keys
MAX_FORGOTTEN = 1000  # of the oldest jobs that one submission looks at, to delete those that ended
PAGE = 100  # jobs that are read at a time
CURSOR = re.compile(r"\d{1,12}\.\d{1,12}")  # time of creation of the last job of the page before
MAX_SHOWN_ID = 80  # characters of an unknown id in the error


@dataclass(frozen=True)
class JobPage:
    """One page of a list of jobs, and the cursor of the next page, or `None` after the last."""

    jobs: list[Job]
    next: str | None


class Jobs:
    """The jobs in one Redis.

    Args:
        redis: Its client.
        keep_seconds: How long the record of a job is kept that is cancelled before it starts.

    Attributes:
        webhooks: The submissions whose webhooks are not sent yet.
        usage: Images that API keys have used.
    """

    def __init__(self, redis: Redis, keep_seconds: float = KEEP_SECONDS) -> None:
        self.usage = DailyUsage(redis)
        self.webhooks = PendingWebhooks(redis)
        self._redis = redis
        self._keep_seconds = round(keep_seconds)
        self._submit = load_script(redis, "submit")
        self._cancel = load_script(redis, "cancel")
        self._forget = load_script(redis, "forget")

    def submit(
        self,
        request: JobRequest,
        *,
        priority: Priority = "normal",
        max_in_flight: int | None = None,
        max_errors: str | None = None,
        owner: str | None = None,
        webhook: bool = False,
    ) -> Job:
        """Enqueue a job. If the same request is in the queue and has not ended, return that job.

        Args:
            request: Its output folder is empty, or that of the same job.
            priority: Jobs of a higher priority go first.
            max_in_flight: Maximum number of its steps that workers process at a time.
            max_errors: Number of images, or share with a %, that may be errors; the job fails if
                more are.
            owner: Name of the caller's API key.
            webhook: Whether a service sends a webhook when the job has ended.

        Raises:
            TooManyRequests: If the queue is full of jobs that have not ended.
        """
        self._make_room(owner)
        job_id = request.job_id
        now = time.time()
        fields = _fields(request, priority, max_in_flight, max_errors, owner, now)
        is_new = self._submit(keys=job_keys(job_id), args=[WORKERS_GROUP, encode(Plan()), *fields])
        job = self.get(job_id)
        key = waiting_key if job.state == "queued" else active_key
        # Also for a known job: its first submitter may have died between the script and this.
        with self._redis.pipeline(transaction=True) as pipeline:
            for listed in {listing_key(None), listing_key(job.owner)}:
                pipeline.zadd(listed, {job_id: now}, nx=not is_new)
                pipeline.zremrangebyrank(listed, 0, -MAX_JOBS - 1)
            if webhook:
                pipeline.zadd(WEBHOOKS, {submission_of(job): now})
            pipeline.lrem(waiting_key(job.priority), 0, job_id)
            pipeline.lrem(active_key(job.priority), 0, job_id)
            pipeline.rpush(key(job.priority), job_id)
            pipeline.lpush(WAKE, job_id)
            pipeline.ltrim(WAKE, 0, 0)
            try:
                pipeline.execute()
            except ResponseError:  # Redis is full since the script
                if is_new:
                    self._redis.unlink(*job_keys(job_id))
                raise
        return job

    def _make_room(self, owner: str | None) -> None:
        """Delete the records of the oldest jobs that have ended, if there are too many."""
        for key, limit in {listing_key(owner): MAX_OWNED, JOBS: MAX_JOBS}.items():
            if self._redis.zcard(key) < limit:
                continue
            oldest = cast("list[str]", self._redis.zrange(key, 0, MAX_FORGOTTEN - 1))
            ended = [job_id for job_id in oldest if self.forget(job_id)]
            if not ended:
                raise TooManyRequests(
                    f"The queue holds {limit:,} jobs, and the oldest have not ended. "
                    "Cancel some, or try again later.",
                    code="queue_full",
                )
            self._redis.zrem(key, *ended)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; its finished parts stay. It ends once workers have released its steps.

        Raises:
            JobNotFound: If no job has that id.
            Conflict: If the job has ended, or only its summary is missing.
        """
        state = self._cancel(keys=job_keys(job_id), args=[time.time(), self._keep_seconds])
        if state is None:
            raise _not_found(job_id)
        if state in {*ENDED, "finishing"}:
            raise Conflict(f"Job '{job_id}' cannot be cancelled: it is {state}.", code="job_ended")
        job = self.get(job_id)
        if job.state == "cancelled":
            self._redis.lrem(waiting_key(job.priority), 0, job_id)
        return job

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            JobNotFound: If no job has that id.
        """
        job = self.find(job_id)
        if job is None:
            raise _not_found(job_id)
        return job

    def find(self, job_id: str) -> Job | None:
        """Return a job, or `None` if the id is unknown."""
        return self.find_all([job_id])[0]

    def find_all(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Return the jobs with these ids, `None` for unknown ones, in one round trip."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hgetall(job_key(job_id))
                pipeline.hvals(job_key(job_id, "progress"))
            found = iter(pipeline.execute())
        return [parse_job(*parts) for parts in zip(job_ids, found, found, strict=True)]

    def page(
        self, after: str | None = None, *, limit: int = PAGE, owner: str | None = None
    ) -> "JobPage":
        """Return some jobs whose records have not expired, newest first.

        Args:
            after: `JobPage.next` of the page before; the first page by default.
            limit: Maximum number of jobs.
            owner: Whose jobs; all jobs by default.

        Raises:
            InvalidRequest: If `after` is no cursor.
        """
        key = listing_key(owner)
        if after is not None and not CURSOR.fullmatch(after):
            raise InvalidRequest("The cursor does not come from a list of jobs.")
        latest = "+inf" if after is None else f"({after}"
        found = cast(
            "list[tuple[str, float]]",
            self._redis.zrevrangebyscore(key, latest, "-inf", 0, limit + 1, withscores=True),
        )
        following = repr(found[limit - 1][1]) if len(found) > limit else None
        return JobPage(self._listed(key, [job_id for job_id, _ in found[:limit]]), following)

    def all(self) -> Iterator[Job]:
        """Yield all jobs whose records have not expired, newest first, without later ones."""
        job_ids = cast("list[str]", self._redis.zrevrange(JOBS, 0, -1))
        for start in range(0, len(job_ids), PAGE):
            yield from self._listed(JOBS, job_ids[start : start + PAGE])

    def forget(self, job_id: str) -> bool:
        """Delete the record of a job that has ended, and return whether none is left."""
        return bool(self._forget(keys=job_keys(job_id)))

    def depth(self) -> Depth:
        """Return how much work is in the queue."""
        return measure_depth(self._redis)

    def _listed(self, key: str, job_ids: Sequence[str]) -> list[Job]:
        """Return the jobs of a listing that have records, and remove the others from it."""
        jobs = self.find_all(job_ids)
        expired = [job_id for job_id, job in zip(job_ids, jobs, strict=True) if job is None]
        if expired:
            with suppress(ReadOnlyError):  # a replica can be read
                self._redis.zrem(key, *expired)
        return [job for job in jobs if job is not None]

    def dead_letters(self, job_id: str) -> list[DeadLetter]:
        """Return the steps of a job that failed for good."""
        letters = cast(
            "list[tuple[str, dict[str, str]]]", self._redis.xrange(job_key(job_id, "dead"))
        )
        return [
            DeadLetter(
                decode(letter["step"]).name, letter["error"], int(message.partition("-")[0]) / 1000
            )
            for message, letter in letters
        ]

    def workers(self) -> list[str]:
        """Return the names of the workers that are alive."""
        since = server_time(self._redis) - HEARTBEAT_TIMEOUT_SECONDS
        return cast("list[str]", self._redis.zrangebyscore(WORKERS, since, "+inf"))


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"No job has the id {job_id[:MAX_SHOWN_ID]!r}. List the jobs: loupe jobs")


def _fields(
    request: JobRequest,
    priority: Priority,
    max_in_flight: int | None,
    max_errors: str | None,
    owner: str | None,
    created: float,
) -> list[str | int | float]:
    """Return the names and values of a queued job's record."""
    # `contract` and `most_in_flight` keep the names that workers of protocol 2 read.
    record: dict[str, str | int | float] = {
        "contract": PROTOCOL,
        "state": "queued",
        **request.model_dump(exclude={"options", "roots", "not_sent"}),
        "options": request.options.model_dump_json(),
        "roots": json.dumps(request.roots),
        "not_sent": json.dumps(request.not_sent),
        "priority": priority,
        "most_in_flight": max_in_flight or 0,
        "created": created,
        **({} if max_errors is None else {"max_errors": max_errors}),
        **({} if owner is None else {"owner": owner}),
    }
    return [word for field in record.items() for word in field]
