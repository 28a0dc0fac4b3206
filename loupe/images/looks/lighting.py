"""Smooth light: brightness that changes slowly across a picture, and is taken out of it."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.images.spec import Float32Array, UInt8Array
from loupe.images.steps import note

GRID = 16  # rows and columns of blocks that the surface is fitted to
ROUNDS = 4  # of fitting; blocks that are far from the surface, with ink, count less each time
MIN_FALL, MIN_FALL_SHARE = 12, 0.08  # levels; of the lightest; less does not matter
# Share of the blocks without ink, and their error, of the fall; edges of shadows are not smooth.
MOST, MAX_ERROR = 0.65, 0.06
DARKEST = 0.1  # of the lightest


def evenly_lit(grey: UInt8Array) -> UInt8Array:
    """Divide a picture, uint8 `(height, width)`, by its light if that changes smoothly.

    The light is a quadratic surface, fitted to the means of blocks with least absolute deviations.
    """
    means = np.asarray(Image.fromarray(grey).resize((GRID, GRID), Image.Resampling.BOX), np.float32)
    values, basis = means.ravel(), _basis(GRID, GRID)
    weights: NDArray[np.floating] = np.ones_like(values)
    for _ in range(ROUNDS):
        weighted = basis * weights[:, np.newaxis]
        factors = np.linalg.solve(weighted.T @ basis, weighted.T @ values)
        fitted = basis @ factors
        errors = np.abs(values - fitted)
        weights = 1 / np.maximum(errors, np.float32(1))
    lightest, fall = float(fitted.max()), float(np.ptp(fitted))
    near = np.count_nonzero(errors <= MAX_ERROR * fall)
    if fall <= max(MIN_FALL, MIN_FALL_SHARE * lightest) or near < MOST * len(errors):
        return grey
    note("light_evened", "evened the light, which falls by {:.0f} %", 100 * fall / lightest)
    surface = fitted.reshape(GRID, GRID)
    light = Image.fromarray(np.maximum(surface, DARKEST * lightest)).resize(
        grey.shape[::-1], Image.Resampling.BICUBIC
    )
    return np.minimum(grey * (lightest / np.asarray(light)), 255).astype(np.uint8)


@lru_cache
def _basis(height: int, width: int) -> Float32Array:
    """Return the terms of a quadratic surface, shape `(height * width, 6)`."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].reshape(2, -1)
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1).astype(np.float32)
