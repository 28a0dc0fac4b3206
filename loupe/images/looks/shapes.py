"""Growing and shrinking of shapes in masks and grey pictures, and their bounding box.

All functions take rectangles of odd height and width, and ignore what lies outside the picture.
"""

from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from loupe.images.spec import UInt8Array

Mask = NDArray[np.bool_]
Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a picture."""
Pixels = TypeVar("Pixels", Mask, UInt8Array)


def dilate(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return for each pixel the maximum within a rectangle around it."""
    pixels = _extremes(pixels, height, np.maximum, 0)
    return _extremes(pixels.T, width, np.maximum, 0).T


def erode(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return for each pixel the minimum within a rectangle around it."""
    pixels = _extremes(pixels, height, np.minimum, 255)
    return _extremes(pixels.T, width, np.minimum, 255).T


def bounds(mask: Mask, margin: int = 0) -> Window:
    """Return the rows and columns of the smallest box around a mask that is not empty.

    The margin, in pixels, ends at the edges of the picture.
    """
    rows, columns = mask.any(axis=1).tobytes(), mask.any(axis=0).tobytes()
    return (
        slice(max(0, rows.find(1) - margin), rows.rfind(1) + 1 + margin),
        slice(max(0, columns.find(1) - margin), columns.rfind(1) + 1 + margin),
    )


def _extremes(pixels: Pixels, size: int, extreme: np.ufunc, outside: int) -> Pixels:
    """Return the extremes of `size` neighbouring rows, by doubling windows of 1, 2, 4 … rows."""
    if size == 1:
        return pixels
    radius, height = size // 2, len(pixels)
    rows = np.full((height + 2 * radius, pixels.shape[1]), outside, pixels.dtype)
    rows[radius : radius + height] = pixels
    window = 1
    while window < size:
        step = min(window, size - window)
        rows = extreme(rows[: rows.shape[0] - step], rows[step:])
        window += step
    return rows
