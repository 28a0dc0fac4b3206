"""The client side of the queue: submit, find, list and cancel jobs. It imports nothing heavy."""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter
from redis import Redis
from redis.commands.core import Script

from loupe.errors import Conflict, InvalidRequest, JobNotFound, TooManyRequests
from loupe.jobs import DEFAULT_OPTIONS, ENDED, JobState, Priority, ScoringJob, ScoringOptions
from worker.queue.steps import Plan, decode, encode

# Keys of the queue; those of one job are described in `lua/keys.lua`. A cluster keeps the keys that
# share a hash tag, {queue} or {job:ID}, on one node.
JOBS = "loupe:{queue}:jobs"  # sorted set: job ids by time of creation; and one for each owner
WAKE = "loupe:{queue}:wake"  # list of at most one element, on which idle workers wait
WORKERS = "loupe:{queue}:workers"  # sorted set: names of workers by time of the last heartbeat
WORKERS_GROUP = "workers"  # consumer group of every job's stream

SCRIPTS = Path(__file__).parent / "lua"
KEEP_SECONDS = 30 * 24 * 3600  # how long the record of an ended job is kept
HEARTBEAT_TIMEOUT_SECONDS = 5.0  # workers send a heartbeat every second
MAX_JOBS = 50_000  # whose records are kept, about 1.5 KB each
MAX_FORGOTTEN = 1000  # of the oldest jobs that one submission looks at, to delete those that ended
PAGE = 100  # jobs that are read at a time
CURSOR = re.compile(r"\d{1,12}\.\d{1,12}")  # time of creation of the last job of the page before
MAX_SHOWN_ID = 80  # characters of an unknown id in the error

# See `lua/keys.lua`.
JobPart = Literal["", "steps", "fences", "delayed", "dead", "progress", "staged", "kept"]

# Changes with the meaning of records and steps; a worker fails jobs of another protocol.
PROTOCOL = "2"


def active_key(priority: Priority) -> str:
    """Return the key of the list of job ids that workers have started."""
    return f"loupe:{{queue}}:active:{priority}"


def waiting_key(priority: Priority) -> str:
    """Return the key of the list of job ids that no worker has started."""
    return f"loupe:{{queue}}:waiting:{priority}"


def listing_key(owner: str | None) -> str:
    """Return the key of the jobs of one owner, or of all jobs."""
    return JOBS if owner is None else f"{JOBS}:{owner}"


def job_key(job_id: str, part: JobPart = "") -> str:
    """Return the key of a job's record, or of another part of the job."""
    return f"loupe:{{job:{job_id}}}" + (f":{part}" if part else "")


def job_keys(job_id: str) -> list[str]:
    """Return all keys of a job in the order of `lua/keys.lua`."""
    return [job_key(job_id, part) for part in get_args(JobPart)]


class JobRequest(BaseModel):
    """The identity of a job: submitting the same request again finds the same job.

    Attributes:
        source: Path or URL of the images.
        output: Folder of the results.
        model: Full tag.
        model_digest: SHA-256 of the model's card.
        shard_images: Maximum number of images in one shard.
        options: Options of the result.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    output: str
    model: str
    model_digest: str
    shard_images: int
    options: ScoringOptions = DEFAULT_OPTIONS

    @property
    def job_id(self) -> str:
        """Twelve hexadecimal digits of the request's digest."""
        return _digest(self.model_dump())[:12]

    def fingerprint(self, revision: str) -> str:
        """Return a digest of everything that the rows of each part depend on.

        Args:
            revision: Version of the source when the job was planned.
        """
        return _digest([PROTOCOL, self.model_dump(), revision])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class DeadLetter:
    """A step that failed for good.

    Attributes:
        step: Name of the step.
        error: Why it failed.
        time: Seconds since the epoch.
    """

    step: str
    error: str
    time: float


@dataclass(frozen=True)
class Job:
    """A job's record at one moment; `ScoringJob` describes the fields that callers see.

    Attributes:
        model_digest: SHA-256 of the model's card when the job was submitted.
        shard_images: Maximum number of images in one shard.
        shards: Number of parts of the result; 0 before the job is planned.
        revision: Version of the source when the job was planned.
        max_in_flight: Maximum number of its steps that workers process at a time; `None` has no
            limit.
        protocol: `PROTOCOL` of the program that submitted it.
        owner: Name of the API key that submitted it over HTTP, if there was one.
    """

    id: str
    state: JobState
    model: str
    model_digest: str
    source: str
    output: str
    shard_images: int
    created: float
    shards: int = 0
    total: int | None = None
    done: int = 0
    failed: int = 0
    started: float | None = None
    finished: float | None = None
    revision: str = ""
    error: str | None = None
    options: ScoringOptions = DEFAULT_OPTIONS
    priority: Priority = "normal"
    max_in_flight: int | None = None
    protocol: str = PROTOCOL
    owner: str | None = None

    @property
    def request(self) -> JobRequest:
        """The request that the job was made from."""
        return JobRequest(**{name: getattr(self, name) for name in JobRequest.model_fields})

    def to_json(self) -> dict[str, object]:
        """Return the fields that callers see."""
        return {name: getattr(self, name) for name in ScoringJob.model_fields}

    @property
    def eta_seconds(self) -> float | None:
        """Estimated time until a running job is done, from its rate so far; else `None`."""
        handled = self.done + self.failed
        if self.state != "running" or self.started is None or self.total is None or not handled:
            return None
        return (time.time() - self.started) / handled * (self.total - handled)


_JOB = TypeAdapter(Job)


@dataclass(frozen=True)
class JobPage:
    """Some jobs of a list, and the cursor of the next page; `None` after the last one."""

    jobs: list[Job]
    next: str | None


class Jobs:
    """The jobs in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._submit = load_script(redis, "submit")
        self._cancel = load_script(redis, "cancel")
        self._forget = load_script(redis, "forget")

    def submit(
        self,
        request: JobRequest,
        *,
        priority: Priority = "normal",
        max_in_flight: int | None = None,
        owner: str | None = None,
    ) -> Job:
        """Enqueue a job. If the same request is in the queue and has not ended, return that job.

        Args:
            request: Its output folder is empty, or that of the same job.
            priority: Jobs of a higher priority go first.
            max_in_flight: Maximum number of its steps that workers process at a time.
            owner: Name of the caller's API key.

        Raises:
            TooManyRequests: If the queue is full of jobs that have not ended.
        """
        self._make_room()
        job_id = request.job_id
        now = time.time()
        # `contract` and `most_in_flight` keep the names that workers of protocol 2 read.
        record: dict[str, str | int | float] = {
            "contract": PROTOCOL,
            "state": "queued",
            **request.model_dump(exclude={"options"}),
            "options": request.options.model_dump_json(),
            "priority": priority,
            "most_in_flight": max_in_flight or 0,
            "created": now,
            **({} if owner is None else {"owner": owner}),
        }
        fields = [word for field in record.items() for word in field]
        is_new = self._submit(keys=job_keys(job_id), args=[WORKERS_GROUP, encode(Plan()), *fields])
        job = self.get(job_id)
        key = waiting_key if job.state == "queued" else active_key
        # Also for a known job: its first submitter may have died between the script and this.
        with self._redis.pipeline(transaction=True) as pipeline:
            for listed in {listing_key(None), listing_key(job.owner)}:
                pipeline.zadd(listed, {job_id: now}, nx=not is_new)
                pipeline.zremrangebyrank(listed, 0, -MAX_JOBS - 1)
            pipeline.lrem(waiting_key(job.priority), 0, job_id)
            pipeline.lrem(active_key(job.priority), 0, job_id)
            pipeline.rpush(key(job.priority), job_id)
            pipeline.lpush(WAKE, job_id)
            pipeline.ltrim(WAKE, 0, 0)
            pipeline.execute()
        return job

    def _make_room(self) -> None:
        """Delete the records of the oldest jobs that have ended, if there are too many."""
        if self._redis.zcard(JOBS) < MAX_JOBS:
            return
        oldest = cast("list[str]", self._redis.zrange(JOBS, 0, MAX_FORGOTTEN - 1))
        ended = [job_id for job_id in oldest if self._forget(keys=job_keys(job_id))]
        if not ended:
            raise TooManyRequests(
                f"The queue holds {MAX_JOBS:,} jobs, and the oldest have not ended. "
                "Cancel some, or try again later.",
                code="queue_full",
            )
        self._redis.zrem(JOBS, *ended)

    def resubmit(self, job: Job) -> Job:
        """Enqueue an ended job again; its finished parts are not scored again."""
        return self.submit(
            job.request, priority=job.priority, max_in_flight=job.max_in_flight, owner=job.owner
        )

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; its finished parts stay. It ends once workers have released its steps.

        Raises:
            JobNotFound: If no job has that id.
            Conflict: If the job has ended, or only its summary is missing.
        """
        state = self._cancel(keys=job_keys(job_id), args=[time.time(), KEEP_SECONDS])
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
        return self._read([job_id])[0]

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
        del found[limit:]
        jobs = self._read([job_id for job_id, _ in found]) if found else []
        expired = [job_id for (job_id, _), job in zip(found, jobs, strict=True) if job is None]
        if expired:
            self._redis.zrem(key, *expired)
        return JobPage([job for job in jobs if job is not None], following)

    def all(self) -> Iterator[Job]:
        """Yield all jobs whose records have not expired, newest first."""
        page = self.page()
        yield from page.jobs
        while page.next is not None:
            page = self.page(page.next)
            yield from page.jobs

    def _read(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Return the jobs with these ids in one round trip."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hgetall(job_key(job_id))
                pipeline.hvals(job_key(job_id, "progress"))
            found = iter(pipeline.execute())
        return [_job(*parts) for parts in zip(job_ids, found, found, strict=True)]

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


def _job(job_id: str, record: dict[str, str], in_flight: list[str]) -> Job | None:
    """Return a job from its record and the progress of its shards in flight."""
    if not record:
        return None
    done, failed = int(record.get("done", 0)), int(record.get("failed", 0))
    if "total" in record:
        done = min(done + sum(map(int, in_flight)), int(record["total"]) - failed)
    fields = {
        "id": job_id,
        "done": done,
        "options": ScoringOptions.model_validate_json(record["options"]),
        "protocol": record["contract"],
        "max_in_flight": int(record["most_in_flight"]) or None,
    }
    return _JOB.validate_python(record | fields)


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"No job has the id {job_id[:MAX_SHOWN_ID]!r}. List the jobs: loupe jobs")


def load_script(redis: Redis, name: str, *, fenced: bool = False) -> Script:
    """Return the script `lua/<name>.lua`, after `keys.lua` and, if it is fenced, `fence.lua`."""
    parts = ["keys", "fence", name] if fenced else ["keys", name]
    return redis.register_script("\n".join((SCRIPTS / f"{part}.lua").read_text() for part in parts))


def server_time(redis: Redis) -> float:
    """Return the time of Redis' clock, which all machines share, in seconds since the epoch."""
    seconds, microseconds = redis.time()
    return seconds + microseconds / 1e6
