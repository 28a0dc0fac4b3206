"""Keys of the queue in Redis, and the scripts that change them.

A cluster keeps the keys that share a hash tag, {queue} or {job:ID}, on one node. Those of one job
are described in `lua/keys.lua`.
"""

from pathlib import Path
from typing import Literal, get_args

from redis import Redis
from redis.commands.core import Script

from loupe.jobs import Priority

JOBS = "loupe:{queue}:jobs"  # sorted set: job ids by time of creation; and one for each owner
WAKE = "loupe:{queue}:wake"  # list on which idle workers wait; each of its elements wakes one
IMAGES = "loupe:{queue}:images"  # and day and API key: hash, see `worker.queue.usage`
WEBHOOKS = "loupe:{queue}:webhooks"  # sorted set: see `worker.queue.webhooks`
WORKERS = "loupe:{queue}:workers"  # sorted set: names of workers by time of the last heartbeat
WORKERS_GROUP = "workers"  # consumer group of every job's stream

SCRIPTS = Path(__file__).parent / "lua"
JobPart = Literal["", "steps", "fences", "delayed", "dead", "progress", "staged", "kept"]


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


def load_script(redis: Redis, name: str, *, fenced: bool = False) -> Script:
    """Return the script `lua/<name>.lua`, after `keys.lua` and, if it is fenced, `fence.lua`."""
    parts = ["keys", "fence", name] if fenced else ["keys", name]
    return redis.register_script("\n".join((SCRIPTS / f"{part}.lua").read_text() for part in parts))


def server_time(redis: Redis) -> float:
    """Return the time of Redis' clock, which all machines share, in seconds since the epoch."""
    seconds, microseconds = redis.time()
    return seconds + microseconds / 1e6
