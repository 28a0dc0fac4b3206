"""Images that API keys have used on a day, summed over all services of one Redis."""

from collections.abc import Mapping

from redis import Redis

from worker.queue.keys import IMAGES

KEEP_SECONDS = 2 * 86_400  # clocks may differ, but not by a day


class DailyUsage:
    """The images that were used, by day and name of the key."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, day: int, images: Mapping[str, int]) -> dict[str, int]:
        """Add images of a day, and return the sums of the same keys.

        Args:
            day: Days since the epoch, UTC.
            images: By the name of the key, at least one. Redis writes nothing if all are 0.
        """
        key = f"{IMAGES}:{day}"
        with self._redis.pipeline(transaction=True) as pipeline:
            for name, count in images.items():
                if count:
                    pipeline.hincrby(key, name, count)
            if any(images.values()):
                pipeline.expire(key, KEEP_SECONDS)
            pipeline.hmget(key, [*images])
            sums = pipeline.execute()[-1]
        return {name: int(used or 0) for name, used in zip(images, sums, strict=True)}
