"""Growing and shrinking of shapes in masks and grey pictures, and their bounding box.

All functions take rectangles of odd height and width, and ignore what lies outside the picture.
"""

from functools import lru_cache
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
    rows, columns = pixels.shape
    roomy = np.zeros((rows + height - 1, columns + width - 1), pixels.dtype)
    roomy[height // 2 :, width // 2 :][:rows, :columns] = pixels
    for step in _steps(height):
        roomy = np.maximum(roomy[:-step], roomy[step:])
    for step in _steps(width):
        roomy = np.maximum(roomy[:, :-step], roomy[:, step:])
    return roomy


def erode(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return for each pixel the minimum within a rectangle around it."""
    return ~dilate(~pixels, height, width)


@lru_cache
def _steps(size: int) -> tuple[int, ...]:
    """Return the distances of windows of 1, 2, 4 … pixels that together are a window of `size`."""
    window, steps = 1, []
    while window < size:
        steps.append(min(window, size - window))
        window += steps[-1]
    return tuple(steps)


def padded(pixels: Pixels, width: int) -> Pixels:
    """Return a picture with a margin of zeros; NumPy's own function is slow for small ones."""
    rows, columns = pixels.shape
    roomy = np.zeros((rows + 2 * width, columns + 2 * width), pixels.dtype)
    roomy[width : width + rows, width : width + columns] = pixels
    return roomy


def bounds(mask: Mask, margin: int = 0) -> Window:
    """Return the rows and columns of the smallest box around a mask that is not empty.

    The margin, in pixels, ends at the edges of the picture.
    """
    rows, columns = mask.any(axis=1).tobytes(), mask.any(axis=0).tobytes()
    return (
        slice(max(0, rows.find(1) - margin), rows.rfind(1) + 1 + margin),
        slice(max(0, columns.find(1) - margin), columns.rfind(1) + 1 + margin),
    )
