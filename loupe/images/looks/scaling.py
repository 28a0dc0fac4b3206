"""Scaling pictures, and placing them in an image."""

from functools import lru_cache

import numpy as np
from PIL import Image

from loupe.images.spec import Float32Array, ImageSpec, UInt8Array


def resized(picture: UInt8Array, side: int) -> UInt8Array:
    """Scale the longer side to `side` pixels, and the other one in proportion, to at least 1."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return scaled(picture, size, (0, 0, width, height))


def scaled(
    picture: UInt8Array, size: tuple[int, int], box: tuple[float, float, float, float]
) -> UInt8Array:
    """Scale a part of a picture, `(left, top, right, bottom)`, to `(height, width)`."""
    height, width = size
    shrinks = height < box[3] - box[1] or width < box[2] - box[0]
    resampling = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize((width, height), resampling, box))


def reduced(picture: UInt8Array, side: int) -> UInt8Array:
    """Shrink by a whole number, so that neither side is longer than `side` pixels."""
    factor = -(-max(picture.shape) // side)
    return np.asarray(Image.fromarray(picture).reduce(factor)) if factor > 1 else picture


def shrunk(picture: UInt8Array, side: int) -> Float32Array:
    """Average the pixels of a small picture, so that the longer side has `side` of them."""
    height, width = picture.shape
    scale = side / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    across = picture @ averages(width, columns, width / columns).T
    return averages(height, rows, height / rows) @ across


@lru_cache(1024)
def averages(size: int, count: int, width: float) -> Float32Array:
    """Return a matrix `(count, size)` that averages windows of a width, evenly spaced, in `size`.

    The first and the last pixel stand for those beyond the edges.
    """
    middles = (np.arange(count)[:, np.newaxis] + 0.5) * (size / count)
    edges = np.array([-np.inf, *range(1, size), np.inf])
    stops, starts = middles + width / 2, middles - width / 2
    covered = np.minimum(edges[1:], stops) - np.maximum(edges[:-1], starts)
    return np.asarray(covered.clip(0) / width, np.float32)


def magnified(picture: UInt8Array, side: int) -> UInt8Array:
    """Scale the longer side to `side` pixels, or about that: small pictures by whole numbers."""
    longer = max(picture.shape)
    if 2 * longer > side:
        return resized(picture, side)
    factor = round(side / longer)
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def placed(small: UInt8Array, top: int, left: int, spec: ImageSpec) -> UInt8Array:
    """Return a black image with a picture in it."""
    height, width = small.shape[:2]
    image = np.zeros(spec.shape, np.uint8)
    image[top : top + height, left : left + width] = small
    return image
