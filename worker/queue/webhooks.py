"""Submissions of jobs for which a service sends a webhook when they have ended."""

from collections.abc import Iterable, Mapping
from typing import cast

from redis import Redis

from worker.queue.keys import WEBHOOKS, load_script, server_time
from worker.queue.records import Job


class PendingWebhooks:
    """The submissions whose webhooks are not sent yet, in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._take = load_script(redis, "take_webhooks")

    def take(self, limit: int, lease_seconds: float) -> list[str]:
        """Return submissions that are due. Until the lease ends, no other caller gets them."""
        return cast("list[str]", self._take(keys=[WEBHOOKS], args=[limit, lease_seconds]))

    def last(self, limit: int) -> list[str]:
        """Return those that wait longest for the next look: attempts that failed are among them."""
        return cast("list[str]", self._redis.zrevrange(WEBHOOKS, 0, limit - 1))

    def postpone(self, seconds: Mapping[str, float]) -> None:
        """Set how long submissions wait for the next look."""
        if seconds:
            now = server_time(self._redis)
            times = {submission: now + pause for submission, pause in seconds.items()}
            self._redis.zadd(WEBHOOKS, times, xx=True)

    def remove(self, submissions: Iterable[str]) -> None:
        """Forget submissions whose webhooks are sent, or will never be."""
        if removed := [*submissions]:
            self._redis.zrem(WEBHOOKS, *removed)


def submission_of(job: Job) -> str:
    """Return the name of a submission; a retry of the job has another one."""
    return f"{job.id}@{job.created!r}"


def job_of(submission: str) -> str:
    """Return the id of a submission's job."""
    return submission.partition("@")[0]
