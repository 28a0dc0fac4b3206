"""The client side of the queue: submit, find, list and cancel jobs. It imports nothing heavy."""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter
from redis import Redis
from redis.commands.core import Script

from loupe.errors import Conflict, JobNotFound
from loupe.jobs import DEFAULT_OPTIONS, ENDED, JobState, Priority, ScoringJob, ScoringOptions
from worker.queue.steps import Plan, decode, encode

# Keys of the queue; those of one job are described in `lua/keys.lua`. A cluster keeps the keys that
# share a hash tag, {queue} or {job:ID}, on one node.
JOBS = "loupe:{queue}:jobs"  # sorted set: job ids by time of creation
WAKE = "loupe:{queue}:wake"  # list of at most one element, on which idle workers wait
WORKERS = "loupe:{queue}:workers"  # sorted set: names of workers by time of the last heartbeat
WORKERS_GROUP = "workers"  # consumer group of every job's stream

SCRIPTS = Path(__file__).parent / "lua"
KEEP_SECONDS = 30 * 24 * 3600  # how long the record of an ended job is kept
HEARTBEAT_TIMEOUT_SECONDS = 5.0  # workers send a heartbeat every second
MAX_SHOWN_ID = 80  # characters of an unknown id in the error

JobPart = Literal["", "steps", "fences", "delayed", "dead", "progress"]  # see `lua/keys.lua`

# Changes with the meaning of records and steps; a worker fails jobs of another protocol.
PROTOCOL = "2"


def active_key(priority: Priority) -> str:
    """Return the key of the list of job ids with work to do."""
    return f"loupe:{{queue}}:active:{priority}"


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


class Jobs:
    """The jobs in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._submit = load_script(redis, "submit")
        self._cancel = load_script(redis, "cancel")

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
        """
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
        # Also for a known job: its first submitter may have died between the script and this.
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zadd(JOBS, {job_id: now}, nx=not is_new)
            pipeline.lrem(active_key(job.priority), 0, job_id)
            pipeline.rpush(active_key(job.priority), job_id)
            pipeline.lpush(WAKE, job_id)
            pipeline.ltrim(WAKE, 0, 0)
            pipeline.execute()
        return job

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
        return self.get(job_id)

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
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(job_key(job_id))
            pipeline.hvals(job_key(job_id, "progress"))
            record, in_flight = cast(tuple[dict[str, str], list[str]], pipeline.execute())
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

    def all(self) -> list[Job]:
        """Return all jobs whose records have not expired, newest first."""
        found = []
        for job_id in cast("list[str]", self._redis.zrange(JOBS, 0, -1, desc=True)):
            job = self.find(job_id)
            if job is None:
                self._redis.zrem(JOBS, job_id)
            else:
                found.append(job)
        return found

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


def load_script(redis: Redis, name: str, *, fenced: bool = False) -> Script:
    """Return the script `lua/<name>.lua`, after `keys.lua` and, if it is fenced, `fence.lua`."""
    parts = ["keys", "fence", name] if fenced else ["keys", name]
    return redis.register_script("\n".join((SCRIPTS / f"{part}.lua").read_text() for part in parts))


def server_time(redis: Redis) -> float:
    """Return the time of Redis' clock, which all machines share, in seconds since the epoch."""
    seconds, microseconds = redis.time()
    return seconds + microseconds / 1e6
