"""What a model learns from its validation images: how familiar others are, and prediction sets."""

import math
from bisect import bisect_right
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from loupe.images.spec import Float32Array

Float64Array: TypeAlias = NDArray[np.float64]

DISTANCE = "distance"  # output of the ONNX file: float32 `(n,)`, higher for stranger images
LEVEL = 0.01  # share of the validation images that would be called unfamiliar
MAX_KEPT = 1_000  # true classes' probabilities; of more, every n-th is kept, and sets are larger


class Familiarity(BaseModel):
    """The distances of validation images from what the model learnt; part of its card."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    distances: tuple[float, ...] = Field(
        min_length=2, description="Evenly spaced quantiles, from the least to the greatest."
    )
    images: int = Field(description="Number of the validation images.")
    level: float = Field(
        default=LEVEL, ge=0, le=1, description="Familiarity below which images are unfamiliar."
    )

    def of(self, distances: Float32Array) -> Float32Array:
        """Return the share of validation images, 0..1, that are further away; float32 `(n,)`."""
        if len(distances) == 1:  # a third of the time of NumPy's; most requests have one image
            return np.array([self._share(float(distances[0]))], np.float32)
        return np.interp(distances, *self._curve).astype(np.float32)

    def _share(self, distance: float) -> float:
        known = self.distances
        right = bisect_right(known, distance, 1, len(known) - 1)
        before, after = known[right - 1], known[right]
        done = (distance - before) / (after - before) if after > before else distance >= after
        return 1 - (right - 1 + min(max(done, 0), 1)) / (len(known) - 1)

    @cached_property  # every run asks for it
    def _curve(self) -> tuple[Float64Array, Float64Array]:
        """Distances and the shares of validation images that are further away."""
        return np.array(self.distances), np.linspace(1, 0, len(self.distances))


class Conformal(BaseModel):
    """The probabilities of the true classes of validation images; part of a model's card.

    They calibrate prediction sets by split conformal prediction. Source: Sadinle, Lei and
    Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", 2019 (LAC).
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    probabilities: tuple[float, ...] = Field(
        min_length=1, description="Order statistics, from the highest to the lowest."
    )
    images: int = Field(ge=1, description="Number of the calibration images.")

    @classmethod
    def of(cls, probabilities: Float32Array, labels: NDArray[np.int64]) -> "Conformal":
        """Calibrate with probabilities, `(n, classes)`, and true classes, `(n,)`."""
        count = len(labels)
        true = np.sort(probabilities[np.arange(count), labels])[::-1]
        kept = min(count, MAX_KEPT)
        ranks = -(-count * np.arange(1, kept + 1) // kept)
        return cls(probabilities=tuple(true[ranks - 1].tolist()), images=count)

    def lowest(self, alpha: float) -> float:
        """Return the lowest probability of a class in a set that is wrong with probability `alpha`.

        It is 0 if there are too few images for such a small `alpha`: the set has all classes.
        """
        rank = math.ceil((self.images + 1) * (1 - alpha))
        if rank > self.images:
            return 0.0
        kept = len(self.probabilities)
        return self.probabilities[max(math.ceil(rank * kept / self.images), 1) - 1]
