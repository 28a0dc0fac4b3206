"""Statistics of a job's steps: workers, duration of each phase, images for contact sheets."""

import heapq
import io
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.images.spec import Float32Array, UInt8Array

PHASES = ("plan", "read", "score", "write")
MAX_IMAGES = 36  # on a contact sheet: six rows of six
SMALL = (28, 28)  # grey images of this shape are kept as they are, others take less as JPEG
JPEG, JPEG_QUALITY = "data:image/jpeg;base64,", 90


class ScoredImage(NamedTuple):
    """An image for a contact sheet, as a JSON array.

    Attributes:
        key: The images with the lowest keys are shown.
        id: Of the record.
        best: Index of the most probable class.
        confidence: Its probability.
        data: The pixels in Base64, or a `data:` URL of a JPEG file.
    """

    key: float
    id: str
    best: int
    confidence: float
    data: str

    def pixels(self) -> UInt8Array:
        """Return the image, uint8 of the model's shape."""
        data = b64decode(self.data.removeprefix(JPEG))
        if self.data.startswith(JPEG):
            return np.asarray(Image.open(io.BytesIO(data)))
        return np.frombuffer(data, np.uint8).reshape(SMALL)


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
            images: uint8, shape `(len(ids), *shape)` of the model.
            probabilities: float32, shape `(len(ids), classes)`.
            random: Draws the sample.
        """
        confidence = probabilities.max(axis=1, initial=0)

        def scored_image(row: int, key: float) -> ScoredImage:
            best = int(probabilities[row].argmax())
            return ScoredImage(
                key, str(ids[row]), best, float(confidence[row]), _packed(images[row])
            )

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


def _packed(image: UInt8Array) -> str:
    """Return an image as `ScoredImage.data`."""
    if image.shape == SMALL:
        return b64encode(image.tobytes()).decode()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return JPEG + b64encode(file.getvalue()).decode()


def _lowest(images: list[ScoredImage]) -> list[ScoredImage]:
    return heapq.nsmallest(MAX_IMAGES, images, key=attrgetter("key"))
