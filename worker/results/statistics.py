"""Statistics of a job's steps: workers, duration of each phase, images for contact sheets."""

import heapq
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loupe.images.spec import SIDE, Float32Array, UInt8Array

PHASES = ("plan", "read", "score", "write")
MAX_IMAGES = 36  # on a contact sheet: six rows of six


class ScoredImage(NamedTuple):
    """An image for a contact sheet, as a JSON array.

    Attributes:
        key: The images with the lowest keys are shown.
        id: Of the record.
        best: Index of the most probable class.
        confidence: Its probability.
        data: The pixels in Base64.
    """

    key: float
    id: str
    best: int
    confidence: float
    data: str

    def pixels(self) -> UInt8Array:
        """Return the image, uint8 of shape `(28, 28)`."""
        return np.frombuffer(b64decode(self.data), np.uint8).reshape(SIDE, SIDE)


@dataclass
class StepStatistics:
    """Statistics of one step, or of many together.

    Attributes:
        workers: Names of the workers that did it.
        seconds: Duration of each phase, summed over all threads.
        sample: A random sample of the images, the same whenever the step is done.
        least_confident: The images with the lowest confidence.
    """

    workers: list[str] = field(default_factory=list)
    seconds: Mapping[str, float] = field(default_factory=dict)
    sample: list[ScoredImage] = field(default_factory=list)
    least_confident: list[ScoredImage] = field(default_factory=list)

    def add_images(
        self,
        ids: Sequence[str] | Sequence[int],
        images: UInt8Array,
        probabilities: Float32Array,
        random: np.random.Generator,
    ) -> None:
        """Keep images for the contact sheets.

        Args:
            ids: Of the records.
            images: uint8, shape `(len(ids), 28, 28)`.
            probabilities: float32, shape `(len(ids), classes)`.
            random: Draws the sample.
        """
        confidence = probabilities.max(axis=1, initial=0)

        def scored_image(row: int, key: float) -> ScoredImage:
            best, data = int(probabilities[row].argmax()), b64encode(images[row].tobytes())
            return ScoredImage(key, str(ids[row]), best, float(confidence[row]), data.decode())

        def keep(kept: list[ScoredImage], keys: NDArray[np.floating[Any]]) -> list[ScoredImage]:
            limit = kept[-1].key if len(kept) == MAX_IMAGES else np.inf
            rows = [
                row for row in np.argsort(keys, kind="stable")[:MAX_IMAGES] if keys[row] < limit
            ]
            return _lowest(kept + [scored_image(row, float(keys[row])) for row in rows])

        self.sample = keep(self.sample, random.random(len(ids)))
        self.least_confident = keep(self.least_confident, confidence)

    def __iadd__(self, other: "StepStatistics") -> "StepStatistics":
        self.workers = sorted({*self.workers, *other.workers})
        self.seconds = {
            phase: self.seconds.get(phase, 0) + other.seconds.get(phase, 0) for phase in PHASES
        }
        self.sample = _lowest(self.sample + other.sample)
        self.least_confident = _lowest(self.least_confident + other.least_confident)
        return self

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "StepStatistics":
        """Read back what `dataclasses.asdict` returned."""
        sample, least_confident = (
            [ScoredImage(*image) for image in fields[name]]
            for name in ("sample", "least_confident")
        )
        return cls(fields["workers"], fields["seconds"], sample, least_confident)


def _lowest(images: list[ScoredImage]) -> list[ScoredImage]:
    return heapq.nsmallest(MAX_IMAGES, images, key=attrgetter("key"))
