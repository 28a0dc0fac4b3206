"""Limits of API keys: requests per second and images per day, for all processes of a service.

`service.daily_images` keeps the images of the day over a restart.
"""

import fcntl
import hashlib
import math
import mmap
import os
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric

from loupe.errors import InvalidSetting, TooManyRequests
from loupe.settings import Settings
from service.http.keys import NAME, read_keys

OTHERS = "*"  # the name of all keys without their own limits
ENTRY = re.compile(
    rf"(?P<name>\{OTHERS}|{NAME.pattern}):"
    r"((?P<requests>(?=[0-9.]*[1-9])[0-9]{1,6}(\.[0-9]{1,3})?)/s(\+|$))?"
    r"((?P<images>[0-9]{1,12})/day)?(?<=[sy])"
)
EXPECTED = f"NAME:10/s+50000/day, or with one of the limits; {OTHERS} is the name of all other keys"
DAY_SECONDS = 86_400  # of UTC
# What a key has used: the time until which its requests use up its rate, the day, its images, and
# how many of them this service has counted.
USAGE = struct.Struct("=dqqq")
ID_BYTES = 16


@dataclass(frozen=True)
class KeyLimit:
    """The limits of one key; `None` is no limit."""

    requests_per_second: float | None = None
    images_per_day: int | None = None

    @property
    def burst_seconds(self) -> float:
        """The seconds of its rate that an idle key may use immediately."""
        return 1.0 if self.requests_per_second is None else max(1.0, 1 / self.requests_per_second)


def read_limits(settings: Settings) -> dict[str, KeyLimit]:
    """Return the limits in `LOUPE_KEY_LIMITS`, by the name of the key.

    Raises:
        InvalidSetting: If an entry is invalid, or there is no such key.
    """
    if settings.key_limits is None:
        return {}
    keys = read_keys(settings)
    names = [] if keys is None else [*keys.digests]
    given: dict[str, KeyLimit] = {}
    for entry in settings.key_limits.split(","):
        match = ENTRY.fullmatch(entry.strip())
        if match is None or match["name"] in given:
            raise InvalidSetting(f"LOUPE_KEY_LIMITS: {entry!r} is not {EXPECTED}.")
        if match["name"] not in (*names, OTHERS):
            raise InvalidSetting(f"LOUPE_KEY_LIMITS: there is no API key named {match['name']!r}.")
        requests, images = match["requests"], match["images"]
        given[match["name"]] = KeyLimit(
            None if requests is None else float(requests), None if images is None else int(images)
        )
    limits = {name: given.get(name, given.get(OTHERS)) for name in names}
    return {name: limit for name, limit in limits.items() if limit is not None}


class KeyLimits:
    """Counts what API keys use, and refuses what exceeds their limits.

    Args:
        limits: By the name of the key; others have none.
        folder: Where the processes of a service share the counts; `None` if there is only one.
        clock: Returns seconds since the epoch.

    Attributes:
        service_id: Identifies the processes that share the counts, from the start of their service.
    """

    def __init__(
        self,
        limits: Mapping[str, KeyLimit],
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._daily = [name for name, limit in limits.items() if limit.images_per_day is not None]
        self._offsets = {
            name: ID_BYTES + USAGE.size * number for number, name in enumerate(sorted(limits))
        }
        size = ID_BYTES + USAGE.size * len(limits)
        self._file: int | None = None
        if folder is not None:
            # A process that starts later may read other keys. It then shares no counts.
            names = hashlib.sha256("\n".join(self._offsets).encode()).hexdigest()
            self._file = os.open(folder / f"limits-{names}", os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._file, size)
        self._usage = mmap.mmap(-1 if self._file is None else self._file, size)
        with self._locked():
            if not any(self._usage[:ID_BYTES]):
                self._usage[:ID_BYTES] = os.urandom(ID_BYTES)
        self.service_id = self._usage[:ID_BYTES].hex()

    def take_request(self, key: str) -> None:
        """Count a request.

        Raises:
            TooManyRequests: If the key has sent as many as it may (`rate_limited`).
        """
        limit = self._limits.get(key)
        if limit is None or limit.requests_per_second is None:
            return
        rate, burst = limit.requests_per_second, limit.burst_seconds
        with self._locked():
            now = self._clock()
            used_until, day, images, own = self._read(key)
            if not now < used_until <= now + burst:  # idle since, or the clock was set back
                used_until = now
            used_until += 1 / rate
            wait = used_until - now - burst
            if wait <= 0:
                self._write(key, used_until, day, images, own)
                return
        raise TooManyRequests(
            f"'{key}' may send {rate:g} requests a second (LOUPE_KEY_LIMITS).",
            code="rate_limited",
            retry_after_seconds=math.ceil(wait),
        )

    def take_images(self, key: str, images: int) -> None:
        """Count images that are about to be classified; with 0, check that there may be any.

        Raises:
            TooManyRequests: If the key has too few left today (`quota_exceeded`).
        """
        limit = self._limits.get(key)
        if limit is None or limit.images_per_day is None:
            return
        with self._locked():
            used_until, day, used, own = self._read(key)
            if used + max(1, images) <= limit.images_per_day:
                if images:
                    self._write(key, used_until, day, used + images, own + images)
                return
        left = limit.images_per_day - used
        raise TooManyRequests(
            f"'{key}' may classify {limit.images_per_day:,} images a day (LOUPE_KEY_LIMITS). "
            f"{left:,} are left until midnight UTC.",
            code="quota_exceeded",
            retry_after_seconds=math.ceil((day + 1) * DAY_SECONDS - self._clock()),
        )

    def give_back(self, key: str, images: int) -> None:
        """Discount images that were not classified."""
        limit = self._limits.get(key)
        if limit is not None and limit.images_per_day is not None:
            with self._locked():
                used_until, day, used, own = self._read(key)
                images = min(images, own)  # more are of yesterday
                self._write(key, used_until, day, used - images, own - images)

    @property
    def count_days(self) -> bool:
        """True if a key has a limit of images per day."""
        return bool(self._daily)

    def own_images(self) -> tuple[int, dict[str, int]]:
        """Return the day, and the images that this service has counted on it, by key."""
        with self._locked():
            found = {key: self._read(key) for key in self._daily}
        day = min(today for _, today, _, _ in found.values())
        return day, {key: own if today == day else 0 for key, (_, today, _, own) in found.items()}

    def set_others(self, day: int, images: Mapping[str, int]) -> None:
        """Set what other services, and this one before its start, have counted on a day, by key."""
        with self._locked():
            for key, count in images.items():
                used_until, today, _, own = self._read(key)
                if day == today:
                    self._write(key, used_until, day, count + own, own)

    def metrics(self) -> Iterator[Metric]:
        """Yield the limits, and what is used of those of a day."""
        limits = GaugeMetricFamily("loupe_key_limit", "What a key may use", labels=["key", "limit"])
        used = GaugeMetricFamily(
            "loupe_key_images_today", "Images of a key since midnight UTC", labels=["key"]
        )
        for name, limit in self._limits.items():
            if limit.requests_per_second is not None:
                limits.add_metric([name, "requests_per_second"], limit.requests_per_second)
            if limit.images_per_day is not None:
                limits.add_metric([name, "images_per_day"], limit.images_per_day)
                used.add_metric([name], self._read(name)[2])
        yield from (limits, used)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other processes; within this one, only the event loop counts."""
        if self._file is None:
            yield
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _read(self, key: str) -> tuple[float, int, int, int]:
        """Return the usage of a key, without images of earlier days."""
        used_until, day, images, own = USAGE.unpack_from(self._usage, self._offsets[key])
        today = int(self._clock() // DAY_SECONDS)
        return (used_until, today, images, own) if day == today else (used_until, today, 0, 0)

    def _write(self, key: str, used_until: float, day: int, images: int, own: int) -> None:
        USAGE.pack_into(self._usage, self._offsets[key], used_until, day, images, own)
