"""What is told of the steps of a job in the end: who did them, how long each phase took, and a few of the images."""

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
MAX_TILES = 36  # images of a kind that are kept, of a shard and of a job: six rows of six


class Tile(NamedTuple):
    """A scored image to show, as a line of JSON.

    Attributes:
        key: Those with the lowest are shown.
        id: Of the record.
        best: AnyPath of its most probable class.
        confidence: Of that class, 0..1.
        pixels: uint8, 28 × 28 bytes in Base64.
    """

    key: float
    id: str
    best: int
    confidence: float
    pixels: str

    @property
    def image(self) -> UInt8Array:
        """uint8, shape `(28, 28)`."""
        return np.frombuffer(b64decode(self.pixels), np.uint8).reshape(SIDE, SIDE)


@dataclass
class StepStatistics:
    """Of one step, or of many together.

    Attributes:
        workers: Who did them, by name.
        seconds: What each of `PHASES` took, summed over all threads; those that took none may be missing.
        sample: Images drawn at random; always the same ones of the same records.
        least_confident: Images that the model was least sure of.
    """

    workers: list[str] = field(default_factory=list)
    seconds: Mapping[str, float] = field(default_factory=dict)
    sample: list[Tile] = field(default_factory=list)
    least_confident: list[Tile] = field(default_factory=list)

    def add_images(
        self,
        ids: Sequence[str] | Sequence[int],
        images: UInt8Array,
        probabilities: Float32Array,
        random: np.random.Generator,
    ) -> None:
        """Keep those images of a batch that are to be shown.

        Args:
            ids: Of its records.
            images: uint8, shape `(len(ids), 28, 28)`.
            probabilities: float32, shape `(len(ids), classes)`.
            random: What draws the sample.
        """
        confidence = probabilities.max(axis=1, initial=0)

        def lowest(held: list[Tile], keys: NDArray[np.floating[Any]]) -> list[Tile]:
            bound = held[-1].key if len(held) == MAX_TILES else np.inf
            places = [
                place
                for place in np.argsort(keys, kind="stable")[:MAX_TILES]
                if keys[place] < bound
            ]
            return (
                _first([*held, *(tile(float(keys[place]), place) for place in places)])
                if places
                else held
            )

        def tile(key: float, place: int) -> Tile:
            best, pixels = (
                int(probabilities[place].argmax()),
                b64encode(images[place].tobytes()).decode(),
            )
            return Tile(key, str(ids[place]), best, float(confidence[place]), pixels)

        self.sample = lowest(self.sample, random.random(len(ids)))
        self.least_confident = lowest(self.least_confident, confidence)

    def __iadd__(self, other: "StepStatistics") -> "StepStatistics":
        self.workers = sorted({*self.workers, *other.workers})
        self.seconds = {
            phase: self.seconds.get(phase, 0) + other.seconds.get(phase, 0) for phase in PHASES
        }
        self.sample = _first([*self.sample, *other.sample])
        self.least_confident = _first([*self.least_confident, *other.least_confident])
        return self

    @classmethod
    def from_json(cls, about: dict[str, Any]) -> "StepStatistics":
        """From what `dataclasses.asdict` makes of them."""
        sample, least_confident = (
            [Tile(*tile) for tile in about[name]] for name in ("sample", "least_confident")
        )
        return cls(about["workers"], about["seconds"], sample, least_confident)


def _first(tiles: list[Tile]) -> list[Tile]:
    return heapq.nsmallest(MAX_TILES, tiles, key=attrgetter("key"))
