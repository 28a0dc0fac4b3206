"""What every engine of stored models can do."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.certainty import Familiarity

MAX_RUN_BYTES = 2**19  # of the images of one run; its layers take many times as much


def run_size(spec: ImageSpec, most: int) -> int:
    """Return how many images one run takes: at most `most`, fewer of large images."""
    return max(1, min(most, MAX_RUN_BYTES // spec.nbytes))


class Outputs(NamedTuple):
    """The outputs of an engine for a batch.

    Attributes:
        probabilities: float32, shape `(n, classes)`; rows sum to 1, columns follow the class names.
        familiarity: float32, shape `(n,)`, 0..1; NaN if it is not known.
    """

    probabilities: Float32Array
    familiarity: Float32Array

    @property
    def known(self) -> bool:
        """True if the familiarity is known, or there is no image."""
        return not len(self.familiarity) or not np.isnan(self.familiarity).all()

    @classmethod
    def of(cls, probabilities: Float32Array) -> "Outputs":
        """Return the outputs of an engine that knows no familiarity."""
        return cls(probabilities, np.full(len(probabilities), np.nan, np.float32))

    @classmethod
    def joined(cls, parts: Sequence["Outputs"]) -> "Outputs":
        """Return the outputs of one or more batches as those of one."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def part(self, start: int, stop: int) -> "Outputs":
        """Return the outputs of some images."""
        return Outputs(self.probabilities[start:stop], self.familiarity[start:stop])


class Classifier(Protocol):
    """An engine, or a model in its own framework."""

    def predict(self, images: UInt8Array) -> Float32Array:
        """Return class probabilities for a batch of images.

        Args:
            images: uint8, shape `(n, *card.input.shape)`. `n` may be 0.

        Returns:
            float32, shape `(n, classes)`; rows sum to 1, columns follow `card.class_names`.

        Raises:
            InvalidPixels: If dtype or shape differ.
        """


class Engine(Classifier, Protocol):
    """A stored model ready to run.

    Attributes:
        classes: Number of columns of the probabilities.
        familiarity: The card's, if this engine computes it.
        has_features: Whether it can compute `features`.
    """

    classes: int

    familiarity: Familiarity | None

    has_features: bool

    def run(self, images: UInt8Array) -> Outputs:
        """Return probabilities, as `predict`, and familiarity."""

    def features(self, images: UInt8Array) -> Float32Array:
        """Return what the last layer takes for at least one image, float32 `(n, d)`."""
