"""Jobs as everybody sees them: submit, look up, list. The client side of the queue; it imports nothing heavy."""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Protocol, cast

from pydantic import BaseModel, ConfigDict
from redis import Redis

from loupe.jobs import (
    DEFAULT_OPTIONS,
    ENDED,
    JobState,
    Priority,
    ScoringJob,
    ScoringOptions,
)
from loupe.old_errors.worker import JobEnded, JobNotFound
from worker.queue.steps import PlanStep, decode, encode

# Every Redis key. A job's own keys share the hash tag {job:ID}, and those of all jobs {queue}, so that a cluster keeps together what is
# changed together.
JOBS = "loupe:{queue}:jobs"  # sorted set: job id by time of creation
WAKE = "loupe:{queue}:wake"  # list: of one element, that wakes a worker which waits for something to do
WORKERS = "loupe:{queue}:workers"  # sorted set: worker name by time of its last sign of life
WORKERS_GROUP = "workers"  # the consumer group of every job's stream
WORKER_SILENT_SECONDS = 5.0  # a worker says that it lives every second

KEEP_SECONDS = 30 * 24 * 3600  # that the record of a job that has ended is kept
PROTOCOL = "2"  # changes with the meaning of records and steps: a worker does not touch what it might misread

# KEYS of every script: the job's record, steps, fences, delayed, dead, progress. A job that has not ended is the same job; what is left of
# one that has goes.
_SUBMIT = """
local state = redis.call('HGET', KEYS[1], 'state')
if state and state ~= 'done' and state ~= 'failed' and state ~= 'cancelled' then return 0 end
redis.call('DEL', unpack(KEYS))
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('XGROUP', 'CREATE', KEYS[2], ARGV[1], '0', 'MKSTREAM')
redis.call('XADD', KEYS[2], '*', 'step', ARGV[2])
return 1
"""

# A job that nobody has begun ends at once; of another one, what is in hand
# is given back or committed, and whoever comes next finds its last step.
_CANCEL = """
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'queued' then
    redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished', ARGV[1])
    redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6])
    redis.call('EXPIRE', KEYS[1], ARGV[2])
elseif state == 'planning' or state == 'running' then
    redis.call('HSET', KEYS[1], 'state', 'cancelling')
    redis.call('DEL', KEYS[4])
end
return state
"""


def active_key(priority: Priority) -> str:
    """List: ids of jobs with work to do, taken in turn."""
    return f"loupe:{{queue}}:active:{priority}"


def job_key(job_id: str) -> str:
    """Hash: the job's record."""
    return f"loupe:{{job:{job_id}}}"


def steps_key(job_id: str) -> str:
    """Stream: the job's steps (plan, shards, finish), each delivered to one worker at a time."""
    return f"{job_key(job_id)}:steps"


def fences_key(job_id: str) -> str:
    """Hash: how often each step was claimed; only the latest claim may commit."""
    return f"{job_key(job_id)}:fences"


def delayed_key(job_id: str) -> str:
    """Sorted set: steps that failed, by the time at which they are tried again."""
    return f"{job_key(job_id)}:delayed"


def dead_key(job_id: str) -> str:
    """Stream: steps that failed for good, with their errors."""
    return f"{job_key(job_id)}:dead"


def progress_key(job_id: str) -> str:
    """Hash: images scored so far in each shard that is under way."""
    return f"{job_key(job_id)}:progress"


def job_keys(job_id: str) -> list[str]:
    """All keys of a job, in the order in which the scripts have them."""
    return [
        name(job_id)
        for name in (job_key, steps_key, fences_key, delayed_key, dead_key, progress_key)
    ]


class JobRequest(BaseModel):
    """Everything that identifies a job: submitting the same request again finds the same job.

    Attributes:
        source: Path or URL of the images.
        output: Folder of the results.
        model: Full tag.
        model_digest: SHA-256 of the model's card.
        shard_images: Maximum number of images in one shard.
        options: ScoringOptions of the result.
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
        step: Its name.
        error: Why.
        time: When, in seconds since the epoch.
    """

    step: str
    error: str
    time: float


@dataclass(frozen=True)
class Job:
    """A job's record at one moment.

    Attributes:
        id: Its name.
        state: `queued → planning → running → finishing → done`, or `failed`, or `cancelling → cancelled`.
        model: Full tag of the model, resolved when the job was submitted.
        model_digest: SHA-256 of that model's card, so that no other model is taken for it.
        source: What is scored.
        output: Folder of the results.
        shard_images: Most images in one shard.
        shards: Number of parts the result has; 0 before the plan is made.
        total: Images in the source; `None` before the plan is made.
        done: Images scored so far.
        failed: Images that could not be read so far.
        created: Seconds since the epoch, as are `started` and `finished`.
        revision: What the source was when the plan was made.
        error: Why the job failed.
        options: What its result looks like.
        priority: Jobs of a higher one go first; those of the same one take turns.
        most_in_flight: Most of its steps in the hands of workers at a time; `None` for as many as there are workers.
        contract: What its record and steps mean; see `PROTOCOL`.
        owner: Name of the API key that submitted it over HTTP; `None` where that had none, or it came another way.
    """

    id: str
    state: JobState
    model: str
    model_digest: str
    source: str
    output: str
    shard_images: int
    shards: int
    total: int | None
    done: int
    failed: int
    created: float
    started: float | None
    finished: float | None
    revision: str
    error: str | None
    options: ScoringOptions = DEFAULT_OPTIONS
    priority: Priority = "normal"
    most_in_flight: int | None = None
    contract: str = PROTOCOL
    owner: str | None = None

    @property
    def request(self) -> JobRequest:
        """What was asked for."""
        return JobRequest(**{name: getattr(self, name) for name in JobRequest.model_fields})

    def to_json(self) -> dict[str, object]:
        """The record as callers see it."""
        return {name: getattr(self, name) for name in ScoringJob.model_fields}

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until it is done, if it goes on as it went so far; `None` when that cannot be told."""
        handled = self.done + self.failed
        if self.state != "running" or self.started is None or self.total is None or not handled:
            return None
        return (time.time() - self.started) / handled * (self.total - handled)


class Submissions(Protocol):
    """Where jobs are submitted to and looked up; `Jobs` says what each does."""

    def submit(  # noqa: D102
        self,
        request: JobRequest,
        *,
        priority: Priority = "normal",
        most_in_flight: int | None = None,
    ) -> Job: ...
    def find(self, job_id: str) -> Job | None: ...  # noqa: D102
    def get(self, job_id: str) -> Job: ...  # noqa: D102
    def workers(self) -> list[str]: ...  # noqa: D102


class Jobs:
    """The jobs in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._submit = redis.register_script(_SUBMIT)
        self._cancel = redis.register_script(_CANCEL)

    def submit(
        self,
        request: JobRequest,
        *,
        priority: Priority = "normal",
        most_in_flight: int | None = None,
        owner: str | None = None,
    ) -> Job:
        """Put a job into the queue. The same request once more is the same job, which stays as it is unless it has ended.

        Args:
            request: What is asked for. Its output is an empty folder, or that of the same job before.
            priority: Jobs of a higher one go first.
            most_in_flight: Most of its steps in the hands of workers at a time.
            owner: Name of the API key that its caller has.
        """
        job_id = request.job_id
        now = time.time()
        record: dict[str, str | int | float] = {
            "contract": PROTOCOL,
            "state": "queued",
            "model": request.model,
            "model_digest": request.model_digest,
            "source": request.source,
            "output": request.output,
            "shard_images": request.shard_images,
            "options": request.options.model_dump_json(),
            "priority": priority,
            "most_in_flight": most_in_flight or 0,
            "created": now,
            **({} if owner is None else {"owner": owner}),
        }
        plan = encode(PlanStep())
        fields = [word for field in record.items() for word in field]
        is_new = self._submit(keys=job_keys(job_id), args=[WORKERS_GROUP, plan, *fields])
        job = self.get(job_id)
        with self._redis.pipeline(
            transaction=True
        ) as pipeline:  # again for a job that is known: its first submitter may have died here
            pipeline.zadd(JOBS, {job_id: now}, nx=not is_new)
            pipeline.lrem(active_key(job.priority), 0, job_id)
            pipeline.rpush(active_key(job.priority), job_id)
            pipeline.lpush(WAKE, job_id)
            pipeline.ltrim(WAKE, 0, 0)
            pipeline.execute()
        return job

    def again(self, job: Job) -> Job:
        """Put a job that has ended into the queue once more; parts that it has finished count."""
        return self.submit(
            job.request, priority=job.priority, most_in_flight=job.most_in_flight, owner=job.owner
        )

    def find(self, job_id: str) -> Job | None:
        """A job as it stands, or nothing."""
        try:
            return self.get(job_id)
        except JobNotFound:
            return None

    def dead_letters(self, job_id: str) -> list[DeadLetter]:
        """The steps of a job that failed for good."""
        letters = cast("list[tuple[str, dict[str, str]]]", self._redis.xrange(dead_key(job_id)))
        return [
            DeadLetter(
                decode(letter["step"]).name,
                letter["error"],
                int(message.partition("-")[0]) / 1000,
            )
            for message, letter in letters
        ]

    def cancel(self, job_id: str) -> Job:
        """Score no more of a job; the parts it has finished stay. One that workers are at has ended when they have put down what they had.

        Raises:
            JobNotFound: If there is none by that id.
            JobEnded: If it has ended already, or all of it has been scored.
        """
        state = cast(
            "JobState | None", self._cancel(keys=job_keys(job_id), args=[time.time(), KEEP_SECONDS])
        )
        if state is None:
            raise JobNotFound(job_id)
        if state in {*ENDED, "finishing"}:
            raise JobEnded(job_id, state)
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """A job as it stands; `JobNotFound` if there is none by that id."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(job_key(job_id))
            pipeline.hvals(progress_key(job_id))
            record, under_way = cast(tuple[dict[str, str], list[str]], pipeline.execute())
        if not record:
            raise JobNotFound(job_id)
        done, failed = int(record.get("done", 0)), int(record.get("failed", 0))
        total = int(record["total"]) if "total" in record else None
        if total is not None:
            done = min(done + sum(map(int, under_way)), total - failed)
        return Job(
            id=job_id,
            state=cast(JobState, record["state"]),
            model=record["model"],
            model_digest=record["model_digest"],
            source=record["source"],
            output=record["output"],
            shard_images=int(record["shard_images"]),
            shards=int(record.get("shards", 0)),
            total=total,
            done=done,
            failed=failed,
            created=float(record["created"]),
            started=float(record["started"]) if "started" in record else None,
            finished=float(record["finished"]) if "finished" in record else None,
            revision=record.get("revision", ""),
            error=record.get("error"),
            options=ScoringOptions.model_validate_json(record["options"]),
            priority=cast(Priority, record["priority"]),
            most_in_flight=int(record["most_in_flight"]) or None,
            contract=record["contract"],
            owner=record.get("owner"),
        )

    def all(self) -> list[Job]:
        """All jobs, newest first, but for those whose records have expired."""
        found = []
        for job_id in cast("list[str]", self._redis.zrange(JOBS, 0, -1, desc=True)):
            job = self.find(job_id)
            if job is None:
                self._redis.zrem(JOBS, job_id)
            else:
                found.append(job)
        return found

    def workers(self) -> list[str]:
        """Names of the workers that are alive."""
        since = server_time(self._redis) - WORKER_SILENT_SECONDS
        return cast("list[str]", self._redis.zrangebyscore(WORKERS, since, "+inf"))


def server_time(redis: Redis) -> float:
    """Seconds since the epoch on Redis' clock, which is the same for all machines."""
    seconds, microseconds = redis.time()
    return seconds + microseconds / 1e6
