"""The worker side of the queue: claim a step, keep its lease, and commit it, fail it or lose it.

A step is delivered at least once. Each claim gets the next attempt number of its step, its fence; what a step changes is changed by one
Lua script that checks the fence first, so that it is changed exactly once.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from redis import Redis

from loupe.jobs import PRIORITIES
from worker.queue import jobs
from worker.queue.jobs import (
    KEEP_SECONDS,
    WAKE,
    WORKERS,
    WORKERS_GROUP,
    active_key,
    server_time,
)
from worker.queue.steps import FinishStep, Shard, Step, decode, encode

BACKOFF_SECONDS = 0.5  # before the second try; doubled for each further one
BACKOFF_CAP_SECONDS = 30.0
FINISH = encode(FinishStep())
SHARD_NAME = re.compile(r"shard-(\d+)(\+\d+)?")  # with its generation, if it is not the first
GONE = "gone"  # what the claim script says of a job that needs no more work

# KEYS of every script: the job's record, steps, fences, delayed, dead, progress. What is waited for goes by Redis' own clock: those of
# workers differ, and jump.
_CLAIM = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'done' or state == 'failed' or state == 'cancelled' then return 'gone' end
local group, worker, lease_ms, finish = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local most = tonumber(redis.call('HGET', KEYS[1], 'most_in_flight') or 0)
for _, step in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now)) do
    redis.call('ZREM', KEYS[4], step)
    redis.call('XADD', KEYS[2], '*', 'step', step)
end
local function next_message()
    local message = redis.call('XAUTOCLAIM', KEYS[2], group, worker, lease_ms, '0', 'COUNT', 1)[2][1]
    if message then return message end
    if most > 0 and redis.call('XPENDING', KEYS[2], group)[1] >= most then return nil end
    local streams = redis.call('XREADGROUP', 'GROUP', group, worker, 'COUNT', 1, 'STREAMS', KEYS[2], '>')
    return streams and streams[1] and streams[1][2][1]
end
local message = next_message()
if state == 'cancelling' then
    while message and message[2][2] ~= finish do
        redis.call('XACK', KEYS[2], group, message[1])
        redis.call('XDEL', KEYS[2], message[1])
        message = next_message()
    end
    if not message and redis.call('XPENDING', KEYS[2], group)[1] == 0 then
        redis.call('XADD', KEYS[2], '*', 'step', finish)
        message = next_message()
    end
end
if not message then return false end
local step = message[2][2]
local attempt = redis.call('HINCRBY', KEYS[3], cjson.decode(step)['name'], 1)
if state == 'queued' then redis.call('HSET', KEYS[1], 'state', 'planning') end
return {message[1], step, attempt}
"""

_HELD = """
local name, attempt, message = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', KEYS[3], name) ~= attempt then return 0 end
if #redis.call('XPENDING', KEYS[2], ARGV[4], message, message, 1) == 0 then return 0 end
"""

_RENEW = (
    _HELD
    + """
if redis.call('HGET', KEYS[1], 'state') == 'cancelling' and name ~= 'finish' then return 0 end
redis.call('XCLAIM', KEYS[2], ARGV[4], ARGV[5], 0, message, 'JUSTID')
redis.call('HSET', KEYS[6], name, ARGV[6])
return 1
"""
)

_PUT_DOWN = """
redis.call('XACK', KEYS[2], ARGV[4], message)
redis.call('XDEL', KEYS[2], message)
redis.call('HDEL', KEYS[6], name)
"""

_ACK = (
    _PUT_DOWN
    + """
redis.call('HSET', KEYS[3], name, 'committed')
"""
)

_GIVE_UP = (
    _HELD
    + """
if redis.call('HGET', KEYS[1], 'state') ~= 'cancelling' then return 0 end
"""
    + _PUT_DOWN
    + "return 1"
)

_COMMIT_PLAN = (
    _HELD
    + _ACK
    + """
local kept, steps = cjson.decode(ARGV[11]), #ARGV - 11
redis.call('HSET', KEYS[1], 'total', ARGV[5], 'revision', ARGV[6], 'started', ARGV[7], 'shards', steps + #kept, 'remaining', steps)
redis.call('HSET', KEYS[1], 'done', ARGV[8], 'failed', ARGV[9])
for _, shard in ipairs(kept) do redis.call('HSET', KEYS[3], shard, 'committed') end
if redis.call('HGET', KEYS[1], 'state') == 'cancelling' then return 1 end
redis.call('HSET', KEYS[1], 'state', steps > 0 and 'running' or 'finishing')
if steps == 0 then redis.call('XADD', KEYS[2], '*', 'step', ARGV[10]) end
for i = 12, #ARGV do redis.call('XADD', KEYS[2], '*', 'step', ARGV[i]) end
return 1
"""
)

_COMMIT_SHARD = (
    _HELD
    + _ACK
    + """
redis.call('HINCRBY', KEYS[1], 'done', ARGV[5])
redis.call('HINCRBY', KEYS[1], 'failed', ARGV[6])
if redis.call('HINCRBY', KEYS[1], 'remaining', -1) == 0 and redis.call('HGET', KEYS[1], 'state') == 'running' then
    redis.call('HSET', KEYS[1], 'state', 'finishing')
    redis.call('XADD', KEYS[2], '*', 'step', ARGV[7])
end
return 1
"""
)

_COMMIT_FINISH = (
    _HELD
    + """
local state = redis.call('HGET', KEYS[1], 'state') == 'cancelling' and 'cancelled' or 'done'
redis.call('HSET', KEYS[1], 'state', state, 'finished', ARGV[5])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6])
redis.call('EXPIRE', KEYS[1], ARGV[6])
return 1
"""
)

# Another step in the place of one: whoever still has that one has a stale fence from now on.
_REPLACE = (
    _HELD
    + _PUT_DOWN
    + """
redis.call('HDEL', KEYS[3], name)
redis.call('XADD', KEYS[2], '*', 'step', ARGV[5])
return 1
"""
)

_RETRY = (
    _HELD
    + _PUT_DOWN
    + """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[4], time[1] + time[2] / 1000000 + ARGV[5], ARGV[6])
return 1
"""
)

_BURY = (
    _HELD
    + """
redis.call('XADD', KEYS[5], '*', 'step', ARGV[5], 'error', ARGV[6])
redis.call('HSET', KEYS[1], 'state', 'failed', 'error', ARGV[6], 'finished', ARGV[7])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6])
redis.call('EXPIRE', KEYS[1], ARGV[8])
redis.call('EXPIRE', KEYS[5], ARGV[8])
return 1
"""
)

# The attempt does not count: the next claim has its number again.
_HAND_BACK = (
    _HELD
    + """
redis.call('XACK', KEYS[2], ARGV[4], message)
redis.call('XDEL', KEYS[2], message)
redis.call('HDEL', KEYS[6], name)
redis.call('HINCRBY', KEYS[3], name, -1)
redis.call('XADD', KEYS[2], '*', 'step', ARGV[5])
return 1
"""
)


def backoff_seconds(attempt: int) -> float:
    """How long to wait after that many tries; at random, so that workers do not come all at once."""
    pause = min(BACKOFF_SECONDS * 2.0 ** (attempt - 1), BACKOFF_CAP_SECONDS)
    return pause * random.uniform(0.5, 1.5)  # noqa: S311 - hides nothing


@dataclass(frozen=True)
class Delivery:
    """A step in this worker's hands.

    Attributes:
        job_id: Whose step.
        step: What to do.
        message: The stream's id of it.
        attempt: The fence: how often the step was claimed, this time included.
    """

    job_id: str
    step: Step
    message: str
    attempt: int


class Steps(Protocol):
    """What a worker needs of a queue; `Queue` says what each does."""

    worker: str
    lease_seconds: float
    max_attempts: int

    def claim(self) -> Delivery | None: ...  # noqa: D102
    def wait(self, seconds: float) -> None: ...  # noqa: D102
    def renew(self, delivery: Delivery, scored: int) -> bool: ...  # noqa: D102
    def give_up(self, delivery: Delivery) -> bool: ...  # noqa: D102
    def hand_back(self, delivery: Delivery) -> bool: ...  # noqa: D102
    def committed_shards(self, job_id: str) -> list[int]: ...  # noqa: D102
    def commit_plan(  # noqa: D102
        self,
        delivery: Delivery,
        total: int,
        revision: str,
        shards: Sequence[Shard],
        kept: Sequence[str] = (),
        done: int = 0,
        failed: int = 0,
    ) -> bool: ...
    def commit_shard(self, delivery: Delivery, done: int, failed: int) -> bool: ...  # noqa: D102
    def commit_finish(self, delivery: Delivery) -> bool: ...  # noqa: D102
    def replace(self, delivery: Delivery, step: Step) -> bool: ...  # noqa: D102
    def fail(self, delivery: Delivery, error: str, *, final: bool | None = None) -> None: ...  # noqa: D102
    def beat(self) -> None: ...  # noqa: D102
    def leave(self) -> None: ...  # noqa: D102


class Queue:
    """One worker's view of the queue.

    Args:
        redis: A client that decodes responses.
        worker: This worker's name; no two live workers share one.
        lease_seconds: How long a step stays this worker's without a renewal.
        max_attempts: Times a step is tried before its job has failed.
        keep_seconds: How long the record of a job that has ended is kept.
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
        self._claim = redis.register_script(_CLAIM)
        self._renew = redis.register_script(_RENEW)
        self._give_up = redis.register_script(_GIVE_UP)
        self._commit_plan = redis.register_script(_COMMIT_PLAN)
        self._commit_shard = redis.register_script(_COMMIT_SHARD)
        self._commit_finish = redis.register_script(_COMMIT_FINISH)
        self._replace = redis.register_script(_REPLACE)
        self._retry = redis.register_script(_RETRY)
        self._bury = redis.register_script(_BURY)
        self._hand_back = redis.register_script(_HAND_BACK)

    def claim(self) -> Delivery | None:
        """The next step of the next job in turn, or `None` if no job has one to give. Jobs of a higher priority go first."""
        for job_id, active in self._in_turn():
            args: list[str | int] = [
                WORKERS_GROUP,
                self.worker,
                int(self.lease_seconds * 1000),
                FINISH,
            ]
            claimed: Any = self._claim(keys=jobs.job_keys(job_id), args=args)
            if claimed == GONE:
                self._redis.lrem(active, 0, job_id)
            elif claimed:
                message, step, attempt = claimed
                return Delivery(job_id, decode(step), message, int(attempt))
        return None

    def _in_turn(self) -> Iterator[tuple[str, str]]:
        """Each job that has work to do, and the list that it is in, whose last one it then is."""
        lists = [active_key(priority) for priority in PRIORITIES]
        with self._redis.pipeline(
            transaction=False
        ) as pipeline:  # one question for all of them, since most are empty
            for active in lists:
                pipeline.lmove(active, active, "LEFT", "RIGHT")
            firsts = cast("list[str | None]", pipeline.execute())
        for active, job_id in zip(lists, firsts, strict=True):
            seen: set[str] = set()
            while job_id is not None and job_id not in seen:
                seen.add(job_id)
                yield job_id, active
                job_id = cast("str | None", self._redis.lmove(active, active, "LEFT", "RIGHT"))

    def renew(self, delivery: Delivery, scored: int) -> bool:
        """Keep the lease and tell how far the step is. False if the step is another worker's by now, or its job is cancelled."""
        return self._held(self._renew, delivery, self.worker, scored)

    def give_up(self, delivery: Delivery) -> bool:
        """Put down a step of a job that is cancelled. False, and nothing is changed, if the job is not, or the fence is stale."""
        return self._held(self._give_up, delivery)

    def committed_shards(self, job_id: str) -> list[int]:
        """Numbers of the shards whose parts are written and counted."""
        fences = cast("dict[str, str]", self._redis.hgetall(jobs.fences_key(job_id)))
        names = [name for name, fence in fences.items() if fence == "committed"]
        return sorted(
            int(SHARD_NAME.sub(r"\1", name)) for name in names if SHARD_NAME.fullmatch(name)
        )

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
        """Put a planned job's shards into its stream. False, and nothing is changed, if the fence is stale.

        Args:
            delivery: The plan's.
            total: Records in the source.
            revision: What the source is now.
            shards: What is to be scored.
            kept: Names of the shards whose parts are there already.
            done: Images scored in those.
            failed: Records of those that could not be read.
        """
        steps = list(map(encode, shards))
        return self._held(
            self._commit_plan,
            delivery,
            total,
            revision,
            self._now(),
            done,
            failed,
            FINISH,
            json.dumps(kept),
            *steps,
        )

    def commit_shard(self, delivery: Delivery, done: int, failed: int) -> bool:
        """Count a shard whose part is written; queue the final step after the last one. False if the fence is stale."""
        return self._held(self._commit_shard, delivery, done, failed, FINISH)

    def commit_finish(self, delivery: Delivery) -> bool:
        """End the job well. False if the fence is stale."""
        return self._held(self._commit_finish, delivery, self._now(), self._keep_seconds)

    def replace(self, delivery: Delivery, step: Step) -> bool:
        """Put another step in the place of this one. False if the fence is stale."""
        return self._held(self._replace, delivery, encode(step))

    def fail(self, delivery: Delivery, error: str, *, final: bool | None = None) -> None:
        """Try a step again later, or have its job fail; a stale fence changes nothing.

        Args:
            delivery: The step.
            error: Why.
            final: Whether no further try can mend it; if not given, that is after so many tries as there may be.
        """
        step = encode(delivery.step)
        if delivery.attempt >= self.max_attempts if final is None else final:
            self._held(self._bury, delivery, step, error, self._now(), self._keep_seconds)
            return
        self._held(self._retry, delivery, backoff_seconds(delivery.attempt), step)

    def beat(self) -> None:
        """Say that this worker is alive."""
        self._redis.zadd(WORKERS, {self.worker: self._now()})

    def _now(self) -> float:
        return server_time(self._redis)

    def leave(self) -> None:
        """Say that this worker has gone."""
        self._redis.zrem(WORKERS, self.worker)

    def _held(self, script: Any, delivery: Delivery, *args: object) -> bool:
        """Run a script that begins with the fence check."""
        name = delivery.step.name
        return bool(
            script(
                keys=jobs.job_keys(delivery.job_id),
                args=[name, delivery.attempt, delivery.message, WORKERS_GROUP, *args],
            )
        )

    def hand_back(self, delivery: Delivery) -> bool:
        """Let another worker claim a step at once, as if this one never had. False, and nothing is changed, if the fence is stale.

        Whoever hands a step back commits it no more.
        """
        return self._held(self._hand_back, delivery, encode(delivery.step))

    def wait(self, seconds: float) -> None:
        """Wait until somebody submits a job, but no longer than this."""
        self._redis.blpop([WAKE], seconds)
