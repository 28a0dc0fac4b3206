"""The worker side of the queue: claim a step, keep its lease, and commit it, fail it or lose it.

A step is delivered at least once. Each claim gets the next attempt number of its step, its fence; what a step changes is changed by one
Lua script that checks the fence first, so that it is changed exactly once.
"""

import json
import random
import time
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from worker import jobs
from worker.jobs import ACTIVE, WORKERS, WORKERS_GROUP, Step

BACKOFF_SECONDS = 0.5  # before the second try; doubled for each further one
BACKOFF_CAP_SECONDS = 30.0
FINISH = json.dumps(Step(name=jobs.FINISH, kind="finish"))
GONE = "gone"  # what the claim script says of a job that needs no more work

# KEYS of every script: the job's record, steps, fences, delayed, dead, progress.
_CLAIM = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'done' or state == 'failed' or state == 'cancelled' then return 'gone' end
local group, worker, lease_ms, now, finish = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
for _, step in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now)) do
    redis.call('ZREM', KEYS[4], step)
    redis.call('XADD', KEYS[2], '*', 'step', step)
end
local function next_message()
    local message = redis.call('XAUTOCLAIM', KEYS[2], group, worker, lease_ms, '0', 'COUNT', 1)[2][1]
    if message then return message end
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

_GIVE_UP = _HELD + _PUT_DOWN + "return 1"

_COMMIT_PLAN = (
    _HELD
    + _ACK
    + """
local shards = #ARGV - 7
redis.call('HSET', KEYS[1], 'total', ARGV[5], 'revision', ARGV[6], 'started', ARGV[7], 'shards', shards, 'remaining', shards)
if redis.call('HGET', KEYS[1], 'state') == 'cancelling' then return 1 end
redis.call('HSET', KEYS[1], 'state', 'running')
for i = 8, #ARGV do redis.call('XADD', KEYS[2], '*', 'step', ARGV[i]) end
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
return 1
"""
)

_RETRY = (
    _HELD
    + _PUT_DOWN
    + """
redis.call('ZADD', KEYS[4], ARGV[5], ARGV[6])
return 1
"""
)

_BURY = (
    _HELD
    + """
redis.call('XADD', KEYS[5], '*', 'step', ARGV[5], 'error', ARGV[6])
redis.call('HSET', KEYS[1], 'state', 'failed', 'error', ARGV[6], 'finished', ARGV[7])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6])
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


class Queue:
    """One worker's view of the queue.

    Args:
        redis: A client that decodes responses.
        worker: This worker's name; no two live workers share one.
        lease_seconds: How long a step stays this worker's without a renewal.
        max_attempts: Times a step is tried before its job has failed.
    """

    def __init__(self, redis: Redis, worker: str, *, lease_seconds: float, max_attempts: int) -> None:
        self.worker = worker
        self.lease_seconds = lease_seconds
        self.max_attempts = max_attempts
        self._redis = redis
        self._claim = redis.register_script(_CLAIM)
        self._renew = redis.register_script(_RENEW)
        self._give_up = redis.register_script(_GIVE_UP)
        self._commit_plan = redis.register_script(_COMMIT_PLAN)
        self._commit_shard = redis.register_script(_COMMIT_SHARD)
        self._commit_finish = redis.register_script(_COMMIT_FINISH)
        self._retry = redis.register_script(_RETRY)
        self._bury = redis.register_script(_BURY)
        self._hand_back = redis.register_script(_HAND_BACK)

    def claim(self) -> Delivery | None:
        """The next step of the next job in turn, or `None` if no job has one to give."""
        for _ in range(self._redis.llen(ACTIVE)):
            job_id = cast("str | None", self._redis.lmove(ACTIVE, ACTIVE, "LEFT", "RIGHT"))
            if job_id is None:
                return None
            lease_ms = int(self.lease_seconds * 1000)
            args: list[str | float] = [WORKERS_GROUP, self.worker, lease_ms, time.time(), FINISH]
            claimed: Any = self._claim(keys=jobs.job_keys(job_id), args=args)
            if claimed == GONE:
                self._redis.lrem(ACTIVE, 0, job_id)
            elif claimed:
                message, step, attempt = claimed
                return Delivery(job_id, json.loads(step), message, int(attempt))
        return None

    def renew(self, delivery: Delivery, scored: int) -> bool:
        """Keep the lease and tell how far the step is. False if the step is another worker's by now, or its job is cancelled."""
        return self._held(self._renew, delivery, self.worker, scored)

    def give_up(self, delivery: Delivery) -> bool:
        """Put down a step of a job that is cancelled. False, and nothing is changed, if the fence is stale."""
        return self._held(self._give_up, delivery)

    def committed_shards(self, job_id: str) -> list[int]:
        """Numbers of the shards whose parts are written and counted."""
        fences = cast("dict[str, str]", self._redis.hgetall(jobs.fences_key(job_id)))
        names = [name for name, fence in fences.items() if fence == "committed"]
        return sorted(int(name.removeprefix("shard-")) for name in names if name.startswith("shard-"))

    def commit_plan(self, delivery: Delivery, total: int, revision: str, shards: list[Step]) -> bool:
        """Put a planned job's shards into its stream. False, and nothing is changed, if the fence is stale."""
        steps = [json.dumps(shard) for shard in shards]
        return self._held(self._commit_plan, delivery, total, revision, time.time(), *steps)

    def commit_shard(self, delivery: Delivery, done: int, failed: int) -> bool:
        """Count a shard whose part is written; queue the final step after the last one. False if the fence is stale."""
        return self._held(self._commit_shard, delivery, done, failed, FINISH)

    def commit_finish(self, delivery: Delivery) -> bool:
        """End the job well. False if the fence is stale."""
        committed = self._held(self._commit_finish, delivery, time.time())
        self._redis.lrem(ACTIVE, 0, delivery.job_id)
        return committed

    def fail(self, delivery: Delivery, error: str, *, final: bool = False) -> None:
        """Try a step again later; after its last try, or at once if `final`, its job has failed. A stale fence changes nothing."""
        step = json.dumps(delivery.step)
        if final or delivery.attempt >= self.max_attempts:
            if self._held(self._bury, delivery, step, error, time.time()):
                self._redis.lrem(ACTIVE, 0, delivery.job_id)
            return
        backoff = min(BACKOFF_SECONDS * 2 ** (delivery.attempt - 1), BACKOFF_CAP_SECONDS)
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - keeps workers apart, hides nothing
        self._held(self._retry, delivery, time.time() + backoff * jitter, step)

    def beat(self) -> None:
        """Say that this worker is alive."""
        self._redis.zadd(WORKERS, {self.worker: time.time()})

    def leave(self) -> None:
        """Say that this worker has gone."""
        self._redis.zrem(WORKERS, self.worker)

    def _held(self, script: Any, delivery: Delivery, *args: object) -> bool:
        """Run a script that begins with the fence check."""
        name = delivery.step["name"]
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
        return self._held(self._hand_back, delivery, json.dumps(delivery.step))

    def wait_for_job(self, seconds: float) -> bool:
        """Wait until a job comes, but no longer than this. False, and at once, if there are jobs already."""
        if self._redis.llen(ACTIVE):
            return False
        self._redis.blmove(ACTIVE, ACTIVE, seconds, "LEFT", "RIGHT")  # type: ignore[arg-type]  # fractions are taken too
        return True
