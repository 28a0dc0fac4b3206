"""`python -m worker.health`: exit with 0 while a worker on this host sends heartbeats."""

import socket
import sys

from redis import Redis

from loupe.runtime.redis_server import open_redis
from loupe.settings import load_settings
from worker.queue.jobs import Jobs


def is_healthy(redis: Redis, host: str) -> bool:
    """Return whether a live worker's name begins with the host's."""
    return any(worker.startswith(f"{host}-") for worker in Jobs(redis).workers())


if __name__ == "__main__":
    with open_redis(load_settings()) as redis:
        sys.exit(not is_healthy(redis, socket.gethostname()))
