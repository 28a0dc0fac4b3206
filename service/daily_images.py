"""Images of the day by API key, kept so that a restart does not lose them.

The service's Redis keeps them for all services that share it. Without an address of Redis, a file
in the data folder does. Requests count in `service.key_limits` and wait for neither.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from loupe.errors import RedisUnavailable
from loupe.files import lock, write_atomically
from loupe.settings import Settings
from service.jobs.queue import JobQueue
from service.key_limits import KeyLimits

SAVE_SECONDS = 1.0  # how far services that share limits may exceed them
UNAVAILABLE_SECONDS = 10.0  # until the next try after an error
FINAL_SECONDS = 2.0  # timeout of the last one, when the service stops
FILE = "key-images.json"

logger = logging.getLogger(__name__)


class DailyImages:
    """Saves the images that a service counts, and learns those of others.

    Args:
        limits: Count the images.
        jobs: The client of Redis.
        settings: The data folder, and whether Redis has an address.
    """

    def __init__(self, limits: KeyLimits, jobs: JobQueue, settings: Settings) -> None:
        self._limits = limits
        self._jobs = jobs
        self._folder = settings.home
        self._uses_redis = bool(settings.redis_url)

    async def run(self) -> None:
        """Save every second until the task is cancelled, if a key has a limit per day."""
        while self._limits.count_days:
            await asyncio.sleep(SAVE_SECONDS if await self._try_to_save() else UNAVAILABLE_SECONDS)

    async def close(self) -> None:
        """Save what was counted since the last time, unless that takes long."""
        if self._limits.count_days:
            with suppress(TimeoutError):
                async with asyncio.timeout(FINAL_SECONDS):
                    await self._try_to_save()

    async def _try_to_save(self) -> bool:
        """Return whether it was possible."""
        try:
            await self.save()
        except RedisUnavailable:  # it is logged
            return False
        except Exception:
            logger.exception("the images of API keys cannot be saved")
            return False
        return True

    async def save(self) -> None:
        """Add what was counted since the last time, and set the sums of all services.

        Raises:
            RedisUnavailable: If Redis does not answer. A later call saves the same images.
            OSError, ValueError: If the file cannot be read or written. Likewise.
        """
        day, images = self._limits.take_unsaved()
        try:
            sums = await self._add(day, images)
        except Exception:  # if the task is cancelled, the thread goes on
            self._limits.put_back(day, images)
            raise
        self._limits.set_saved(day, sums)

    async def _add(self, day: int, images: Mapping[str, int]) -> dict[str, int]:
        if self._uses_redis:
            return await self._jobs.ask(lambda jobs: jobs.usage.add(day, images))
        return await asyncio.to_thread(add_to_file, self._folder, day, images)


def add_to_file(folder: Path, day: int, images: Mapping[str, int]) -> dict[str, int]:
    """Add images to those of the same day in a file, and return the sums of all keys.

    Args:
        folder: The data folder; services may share it.
        day: Days since the epoch, UTC.
        images: By the name of the key.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / FILE
    with lock(folder / f".{FILE}.lock"):
        try:
            saved = json.loads(path.read_text())
        except FileNotFoundError:
            saved = {"day": day, "images": {}}
        sums: dict[str, int] = saved["images"] if saved["day"] == day else {}
        for name, count in images.items():
            sums[name] = sums.get(name, 0) + count
        if any(images.values()):
            write_atomically(path, json.dumps({"day": day, "images": sums}))
    return {name: sums[name] for name in images}
