"""Jobs as everybody sees them: submit, look up, list. The client side of the queue; it imports nothing heavy."""

import json
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Literal, TypedDict, cast

from redis import Redis

from loupe.errors import JobEnded, JobNotFound

JobState = Literal["queued", "planning", "running", "finishing", "cancelling", "done", "failed", "cancelled"]
Format = Literal["parquet", "csv", "jsonl"]
ENDED: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})

TOLD = (
    *("id", "state", "model", "source", "total", "done", "failed"),
    *("created", "started", "finished", "eta_seconds", "output", "error"),
)  # to callers, of a job

# Every Redis key. A job's own keys share the hash tag {job:ID}, so that a cluster keeps them together for the Lua scripts.
JOBS = "loupe:jobs"  # sorted set: job id by time of creation
ACTIVE = "loupe:active"  # list: ids of jobs with work to do, taken in turn
WORKERS = "loupe:workers"  # sorted set: worker name by time of its last sign of life
WORKERS_GROUP = "workers"  # the consumer group of every job's stream
WORKER_SILENT_SECONDS = 5.0  # a worker says that it lives every second

# KEYS: the job's record, steps, fences, delayed, dead, progress. A job that nobody has begun ends at once; of another one, what is in hand
# is given back or committed, and whoever comes next finds its last step.
_CANCEL = """
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'queued' then
    redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished', ARGV[1])
    redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6])
elseif state == 'planning' or state == 'running' then
    redis.call('HSET', KEYS[1], 'state', 'cancelling')
    redis.call('DEL', KEYS[4])
end
return state
"""

PLAN, SHARD, FINISH = "plan", "shard", "finish"  # the kinds of steps in a job's stream


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
    return [name(job_id) for name in (job_key, steps_key, fences_key, delayed_key, dead_key, progress_key)]


@dataclass(frozen=True)
class Options:
    """What the result of a job looks like.

    Attributes:
        format: Of the files with predictions.
        top_k: Labels in a row, the most probable first.
        probabilities: Whether those of all classes follow.
        threshold: Confidence from which on a label is given; `None` gives one always.
        single: Whether the parts become one file in the end.
    """

    format: Format = "parquet"
    top_k: int = 1
    probabilities: bool = True
    threshold: float | None = None
    single: bool = False


DEFAULT_OPTIONS = Options()


class Step(TypedDict, total=False):
    """One message of a job's stream; JSON. `start`, `stop`, `offset` are a shard's range of records in the source."""

    name: str
    kind: Literal["plan", "shard", "finish"]
    index: int
    start: int
    stop: int
    offset: int


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
    options: Options = DEFAULT_OPTIONS

    def to_json(self) -> dict[str, object]:
        """The record as callers see it."""
        about = asdict(self) | {"eta_seconds": self.eta_seconds}
        return {name: about[name] for name in TOLD}

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until it is done, if it goes on as it went so far; `None` when that cannot be told."""
        handled = self.done + self.failed
        if self.state != "running" or self.started is None or self.total is None or not handled:
            return None
        return (time.time() - self.started) / handled * (self.total - handled)


class Jobs:
    """The jobs in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._cancel = redis.register_script(_CANCEL)

    def submit(
        self,
        source: str,
        output: str,
        *,
        model: str,
        model_digest: str,
        shard_images: int,
        options: Options = DEFAULT_OPTIONS,
    ) -> Job:
        """Put a job into the queue.

        Args:
            source: Absolute path of what to score.
            output: Absolute path of an empty folder.
            model: Full tag.
            model_digest: SHA-256 of the model's card.
            shard_images: Most images in one shard.
            options: What the result is to look like.
        """
        job_id = uuid.uuid4().hex[:12]
        now = time.time()
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(
                job_key(job_id),
                mapping={
                    "state": "queued",
                    "model": model,
                    "model_digest": model_digest,
                    "source": source,
                    "output": output,
                    "shard_images": shard_images,
                    "options": json.dumps(asdict(options)),
                    "created": now,
                },
            )
            pipeline.xgroup_create(steps_key(job_id), WORKERS_GROUP, id="0", mkstream=True)
            pipeline.xadd(steps_key(job_id), {"step": json.dumps(Step(name=PLAN, kind="plan"))})
            pipeline.execute()
        self._redis.zadd(JOBS, {job_id: now})
        self._redis.rpush(ACTIVE, job_id)
        return self.get(job_id)

    def cancel(self, job_id: str) -> Job:
        """Score no more of a job; the parts it has finished stay. One that workers are at has ended when they have put down what they had.

        Raises:
            JobNotFound: If there is none by that id.
            JobEnded: If it has ended already, or all of it has been scored.
        """
        state = cast("JobState | None", self._cancel(keys=job_keys(job_id), args=[time.time()]))
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
            options=Options(**json.loads(record["options"])),
        )

    def all(self) -> list[Job]:
        """All jobs, newest first."""
        return [self.get(job_id) for job_id in cast("list[str]", self._redis.zrange(JOBS, 0, -1, desc=True))]

    def workers(self) -> list[str]:
        """Names of the workers that are alive."""
        since = time.time() - WORKER_SILENT_SECONDS
        return cast("list[str]", self._redis.zrangebyscore(WORKERS, since, "+inf"))
