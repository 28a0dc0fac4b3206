"""Scaling pictures, and placing them in an image."""

import numpy as np
from PIL import Image

from loupe.images.spec import ImageSpec, UInt8Array


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


def placed(small: UInt8Array, top: int, left: int, spec: ImageSpec) -> UInt8Array:
    """Return a black image with a picture in it."""
    height, width = small.shape[:2]
    image = np.zeros(spec.shape, np.uint8)
    image[top : top + height, left : left + width] = small
    return image
