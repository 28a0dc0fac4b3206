"""The worker container's health check, against a real Redis."""

import time

from redis import Redis

from worker.health import is_healthy
from worker.queue.jobs import HEARTBEAT_TIMEOUT_SECONDS
from worker.queue.keys import WORKERS


def test_worker_with_a_heartbeat_is_healthy(redis: Redis) -> None:
    redis.zadd(WORKERS, {"box-17-abcdef": time.time()})

    assert is_healthy(redis, "box")


def test_worker_without_a_recent_heartbeat_is_unhealthy(redis: Redis) -> None:
    redis.zadd(WORKERS, {"box-17-abcdef": time.time() - HEARTBEAT_TIMEOUT_SECONDS - 1})

    assert not is_healthy(redis, "box")


def test_heartbeat_of_another_container_proves_nothing(redis: Redis) -> None:
    redis.zadd(WORKERS, {"box2-17-abcdef": time.time()})

    assert not is_healthy(redis, "box")
