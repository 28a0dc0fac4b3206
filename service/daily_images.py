"""Images of the day by API key, kept so that a restart does not lose them.

The service's Redis keeps them for all services that share it. Without an address of Redis, a file
in the data folder does. Requests count in `service.key_limits` and wait for neither.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
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
        self._day = 0
        self._saved: dict[str, int] = {}  # on that day

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
        """Save what this service has counted, and learn the sums of all.

        Raises:
            RedisUnavailable: If Redis does not answer.
            OSError, ValueError: If the file cannot be read or written.
        """
        day, own = self._limits.own_images()
        if day != self._day:
            self._day, self._saved = day, {}
        changed = {key: count for key, count in own.items() if count != self._saved.get(key, 0)}
        sums = await self._update(day, changed, [*own])
        # What is missing was lost with Redis or the file; the next call saves it again.
        self._saved = {key: count for key, count in own.items() if sums[key] >= count}
        self._limits.set_others(day, {key: max(0, sums[key] - own[key]) for key in own})

    async def _update(
        self, day: int, images: Mapping[str, int], names: Sequence[str]
    ) -> dict[str, int]:
        service = self._limits.service_id
        if self._uses_redis:
            return await self._jobs.ask(lambda jobs: jobs.usage.update(day, service, images, names))
        return await asyncio.to_thread(update_file, self._folder, day, service, images, names)


def update_file(
    folder: Path, day: int, service: str, images: Mapping[str, int], names: Sequence[str]
) -> dict[str, int]:
    """Set what a service has counted on a day, in a file; see `DailyUsage.update`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / FILE
    with lock(folder / f".{FILE}.lock"):
        try:
            saved = json.loads(path.read_text())
        except FileNotFoundError:
            saved = {}
        counts: dict[str, dict[str, int]] = saved["images"] if saved.get("day") == day else {}
        for name, count in images.items():
            counts.setdefault(name, {})[service] = count
        if images:
            write_atomically(path, json.dumps({"day": day, "images": counts}))
    return {name: sum(counts.get(name, {}).values()) for name in names}
