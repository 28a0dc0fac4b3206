"""The pictures that a model learnt, and that look most like an image to it.

Alike are images whose features, the input of the model's last layer, have the same direction.
"""

import io
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InvalidPixels, ModelCorrupted
from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.answers import Neighbour
from loupe.models.engines.engine import Engine
from loupe.models.store import StoredModel, model_corrupted

logger = logging.getLogger(__name__)

FILE_NAME = "references.npz"
DAMAGES = (OSError, ValueError, LookupError, EOFError, InvalidPixels, zlib.error, BadZipFile)
COUNT = 3  # pictures in an answer
MAX_REFERENCES = 2_000
MAX_BYTES = 4 * 2**20  # of their pixels and features in the file, before compression


@dataclass(frozen=True)
class References:
    """Images that a model learnt; of many, some.

    Attributes:
        images: uint8, `(n, *shape)`.
        labels: int, `(n,)`.
        features: float32, `(n, d)`, of length 1.
    """

    images: UInt8Array
    labels: NDArray[np.int64]
    features: Float32Array

    @classmethod
    def of(cls, engine: Engine, images: UInt8Array, labels: NDArray[np.int64]) -> "References":
        """Choose evenly among images, which may be sorted by class, as many as are allowed.

        Args:
            engine: Knows the features.
            images: uint8, `(n, *shape)`, at least one.
            labels: int, `(n,)`.
        """
        size = images[0].nbytes + 2 * engine.features(images[:1]).shape[1]
        step = -(-len(images) // max(1, min(MAX_REFERENCES, MAX_BYTES // size)))
        chosen = images[::step]
        return cls(chosen, labels[::step], _directions(engine, chosen))

    def save(self, folder: Path) -> None:
        """Write `references.npz` into a model's folder."""
        features = self.features.astype(np.float16)
        np.savez_compressed(
            folder / FILE_NAME, images=self.images, labels=self.labels, features=features
        )

    @classmethod
    def load(cls, stored: StoredModel) -> "References | None":
        """Read the file of a model; `None` if it is missing.

        Raises:
            ModelCorrupted: If it does not belong to the model.
        """
        path = stored.file(FILE_NAME)
        if path is None:
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                images, labels, features = file["images"], file["labels"], file["features"]
            stored.card.input.check_batch(images)
            if not len(images) == len(labels) == len(features) or features.ndim != 2:
                raise ValueError("its arrays have different lengths")
            if not set(labels.tolist()) <= set(range(len(stored.card.class_names))):
                raise ValueError("it has other classes")
        except DAMAGES as error:
            raise model_corrupted(stored.tag, FILE_NAME, f"cannot be used ({error})") from error
        return cls(images, labels, features.astype(np.float32))


class Neighbours:
    """Finds the nearest references of a model, which are loaded when they are first needed."""

    def __init__(self, stored: StoredModel, engine: Engine) -> None:
        self._stored = stored
        self._engine = engine

    def of(self, image: UInt8Array, lang: str = "en") -> list[Neighbour] | None:
        """Return the nearest training images, the nearest first.

        Args:
            image: uint8, of the model's shape.
            lang: Language of the class names.

        Returns:
            `COUNT` at most; `None` if the model has no references, or the engine no features.
        """
        known = self._references
        if known is None or not self._engine.has_features:
            return None
        return list(self._nearest(known, image, self._stored.card.names(lang)))

    @cached_property
    def _references(self) -> References | None:
        try:
            return References.load(self._stored)
        except ModelCorrupted as error:
            logger.error("answering without training pictures: %s", error)
            return None

    def _nearest(
        self, known: References, image: UInt8Array, names: tuple[str, ...]
    ) -> Iterator[Neighbour]:
        similarities = known.features @ _directions(self._engine, image[np.newaxis])[0]
        for each in np.argsort(-similarities, kind="stable")[:COUNT].tolist():
            label = int(known.labels[each])
            similarity = float(np.clip(similarities[each], -1, 1))
            yield Neighbour(names[label], label, similarity, known.images[each])


def _directions(engine: Engine, images: UInt8Array) -> Float32Array:
    features = engine.features(images)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
