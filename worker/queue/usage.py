"""Images that API keys have used on a day, counted by all services of one Redis."""

from collections.abc import Mapping, Sequence
from typing import cast

from redis import Redis

from worker.queue.keys import IMAGES

KEEP_SECONDS = 2 * 86_400  # clocks may differ, but not by a day


class DailyUsage:
    """The images that were used, by day, name of the key, and service.

    A service sets its own number, which Redis may do twice: after a timeout nobody knows whether
    it has.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def update(
        self, day: int, service: str, images: Mapping[str, int], names: Sequence[str]
    ) -> dict[str, int]:
        """Set what a service has counted on a day, and return the sums of all services.

        Args:
            day: Days since the epoch, UTC.
            service: Its id; another one after a restart.
            images: By the name of the key, as far as they have changed.
            names: The keys whose sums are wanted.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for name, count in images.items():
                pipeline.hset(_key(day, name), service, str(count))
                pipeline.expire(_key(day, name), KEEP_SECONDS)
            for name in names:
                pipeline.hvals(_key(day, name))
            counts = cast("list[list[str]]", pipeline.execute()[2 * len(images) :])
        return {name: sum(map(int, found)) for name, found in zip(names, counts, strict=True)}


def _key(day: int, name: str) -> str:
    return f"{IMAGES}:{day}:{name}"
