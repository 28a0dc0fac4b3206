"""Keeping a sample of the images that models saw, with their answers.

One private file of JSON per image, in the data folder that all processes share. The number of
files, their bytes and their age are bounded.
"""

import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from math import isnan
from pathlib import Path
from threading import BoundedSemaphore
from typing import TypedDict

import numpy as np
import orjson

from loupe.drawing import png_in_base64
from loupe.files import atomic_path
from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.http.shares import part

MAX_WAITING = 32  # images to be written; more are dropped if the disk is slow
MAX_PER_SECOND = 20  # at 1,000 requests/s, all would take a core and wear out disks
DAY_SECONDS = 86_400
PRUNE_SECONDS = 1.0  # between two looks at the folder

logger = logging.getLogger(__name__)


class Capture(TypedDict):
    """One image, as the model saw it, and its answer.

    Attributes:
        id: Name of its file, which begins with the time.
        time: Seconds since the epoch.
        model: Full tag.
        label: The most probable class.
        index: Its number.
        confidence: Its probability, 0..1.
        familiarity: 0..1; `None` if the model knows none.
        picture: PNG in base64.
    """

    id: str
    time: float
    model: str
    label: str
    index: int
    confidence: float
    familiarity: float | None
    picture: str


class Captures:
    """The sample; `offer` is called in the event loop, and a thread writes."""

    def __init__(self, settings: Settings) -> None:
        self.share = settings.capture
        self._folder = settings.home / "captures"
        self._max_images = settings.capture_images
        self._max_bytes = settings.capture_bytes
        self._max_seconds = settings.capture_days * DAY_SECONDS
        self._max_per_second = part(MAX_PER_SECOND, settings.processes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="captures")
        self._room = BoundedSemaphore(MAX_WAITING)
        self._second, self._kept = 0, 0  # the current second, and images that were kept in it
        self._pruned = 0.0
        self._random = np.random.default_rng()

    def offer(
        self,
        model: StoredModel,
        images: UInt8Array,
        probabilities: Float32Array,
        familiarity: Float32Array | None = None,
    ) -> None:
        """Keep each image with the probability of the settings.

        Args:
            model: The model that answered.
            images: uint8 `(n, *input.shape)`.
            probabilities: float32 `(n, classes)`.
            familiarity: float32 `(n,)`, if it is known.
        """
        now = int(time.monotonic())
        if now != self._second:
            self._second, self._kept = now, 0
        chosen = np.flatnonzero(self._random.random(len(images)) < self.share)
        for number in chosen[: self._max_per_second - self._kept]:
            if self._room.acquire(blocking=False):
                self._kept += 1
                known = None if familiarity is None else float(familiarity[number])
                row = probabilities[number].copy()
                self._thread.submit(self._keep, model, images[number].copy(), row, known)

    def _keep(
        self, model: StoredModel, image: UInt8Array, row: Float32Array, familiarity: float | None
    ) -> None:
        try:
            now, index = time.time_ns(), int(row.argmax())
            capture: Capture = {
                "id": f"{now:020}-{secrets.token_hex(4)}",
                "time": now / 1e9,
                "model": model.tag,
                "label": model.card.class_names[index],
                "index": index,
                "confidence": float(row[index]),
                "familiarity": None if familiarity is None or isnan(familiarity) else familiarity,
                "picture": png_in_base64(image),
            }
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_path(self._folder / f"{capture['id']}.json") as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(orjson.dumps(capture))
            self._prune()
        except OSError as error:
            logger.warning("a picture could not be captured: %s", error)
        finally:
            self._room.release()

    def _prune(self) -> None:
        """Delete the oldest files above the limits."""
        if time.monotonic() - self._pruned < PRUNE_SECONDS:
            return
        self._pruned = time.monotonic()
        count = size = 0
        for path in self._paths():
            try:
                count, size = count + 1, size + path.stat().st_size
            except FileNotFoundError:  # another process has deleted it
                continue
            if count > self._max_images or size > self._max_bytes or self._is_old(path):
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """Return the files, the newest first."""
        return sorted(self._folder.glob("*.json"), reverse=True)

    def _is_old(self, path: Path) -> bool:
        return time.time() - int(path.name[:20]) / 1e9 > self._max_seconds

    def read(self) -> list[Capture]:
        """Return all images that may be kept, the newest first."""
        found: list[Capture] = []
        for path in self._paths()[: self._max_images]:
            try:
                if not self._is_old(path):
                    found.append(orjson.loads(path.read_bytes()))
            except (FileNotFoundError, ValueError):  # deleted just now, or damaged
                continue
        return found

    def delete(self) -> int:
        """Delete all images; return their number."""
        paths = self._paths()
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._thread.shutdown()
