"""Ink as MNIST has it: strokes of a pen's width in a box, with the centre of mass in the middle."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from loupe.images.looks.scaling import placed, resized
from loupe.images.looks.shapes import Mask, bounds, dilate, erode
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.images.steps import note

# Pixels of an MNIST image, and the share of its side that the box with the digit takes. Source:
# LeCun et al., "The MNIST database".
MNIST_SIDE = 28
BOX_SHARE = 20 / MNIST_SIDE
FINE = 4  # times the box is enough to judge strokes
# Widths of strokes, of the box. MNIST's own are two to three pixels of 20.
THINNEST, THICKEST = 2.2 / 20, 4 / 20
FULL = 80  # percentile of the contrast of ink that becomes 255
EMPTY = 0.35  # of the threshold of ink; less contrast than that becomes 0
# Positions of the centre of mass in the images of MNIST, all 70,000: 13.48 to 14.50 of 28.
MIDDLE, TOLERANCE = 14 / MNIST_SIDE, 0.6 / MNIST_SIDE
MIN_BOX_SHARE = 18 / MNIST_SIDE  # in MNIST, 19 or 20 pixels


def is_centred(image: UInt8Array) -> bool:
    """Return whether ink, light on dark, is as large as MNIST's and centred as its images are."""
    height, width = image.shape
    sums = image.ravel().astype(np.float32) @ _moments(height, width)
    total, row, column = (float(each) for each in sums)
    if not total:
        return True  # there is nothing to centre
    off_row, off_column = row / total / height - MIDDLE, column / total / width - MIDDLE
    if max(abs(off_row), abs(off_column)) > TOLERANCE:
        return False
    longer = max(_extent(image.tobytes(), width), _extent(image.T.tobytes(), height))
    side = min(height, width)
    return bool(int(MIN_BOX_SHARE * side) <= longer <= round(BOX_SHARE * side))


@lru_cache
def _moments(height: int, width: int) -> NDArray[np.float32]:
    """Return the factors whose sums give mass, row and column, shape `(height * width, 3)`."""
    rows, columns = np.indices((height, width), np.float32).reshape(2, -1)
    return np.stack([np.ones_like(rows), rows, columns], axis=1)


def _extent(pixels: bytes, stride: int) -> int:
    """Return the number of rows from the first to the last with ink."""
    first = len(pixels) - len(pixels.lstrip(b"\0"))
    last = len(pixels.rstrip(b"\0")) - 1
    return last // stride - first // stride + 1


def draw_strokes(contrast: UInt8Array, mask: Mask, threshold: float, spec: ImageSpec) -> UInt8Array:
    """Return the image of a model with the ink of a mask that is not empty."""
    side = round(BOX_SHARE * min(spec.height, spec.width))
    ink = _full_contrast(contrast, mask, threshold)
    ink = _set_width(resized(ink, FINE * side))
    ink = resized(ink[bounds(ink > 50)], side)
    note("resized", "resized to {} × {} pixels", *ink.shape)
    return _place_by_mass(np.asarray(ink * (255 / ink.max()), np.uint8), spec)


def _full_contrast(contrast: UInt8Array, mask: Mask, threshold: float) -> UInt8Array:
    """Cut to the ink, and stretch its contrast to 0..255."""
    box = bounds(mask, margin=1)
    values, mask = contrast[box], mask[box]
    of_ink = np.sort(values[mask])
    empty, full = EMPTY * threshold, float(of_ink[(len(of_ink) - 1) * FULL // 100])
    stretched = np.clip((values - np.float32(empty)) * (255 / (full - empty)), 0, 255)
    ink = np.where(dilate(mask, 3, 3), stretched, 0).astype(np.uint8)
    return ink[bounds(ink > 0)]


def _set_width(ink: UInt8Array) -> UInt8Array:
    """Widen thin strokes, which would fade when the picture shrinks, and thin thick ones."""
    side = max(ink.shape)
    inked = np.pad(ink, 1) > 127  # the ground around the box counts
    area = int(inked.sum())
    outline = area - int(erode(inked, 3, 3).sum())  # pixels of ink that touch the ground
    width = 2 * area / max(1, outline)
    if (radius := round((THINNEST * side - width) / 2)) > 0:
        note(
            "strokes_thickened",
            "thickened the strokes to {:.1f} times",
            1 + 2 * radius / max(1, width),
        )
        roomy = np.pad(ink, radius)  # strokes at the edge grow outwards, too
        return dilate(roomy, 2 * radius + 1, 2 * radius + 1)
    if (radius := round((width - THICKEST * side) / 2)) > 0:
        note("strokes_thinned", "thinned the strokes to {:.1f} times", 1 - 2 * radius / width)
        return erode(np.pad(ink, 1), 2 * radius + 1, 2 * radius + 1)
    return ink


def _place_by_mass(small: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Place a small picture in the image, uncut, with the centre of mass in the middle."""
    weights = small.astype(np.float32)
    height, width = small.shape
    total = weights.sum()
    row = float(weights.sum(axis=1) @ _positions(height) / total)
    column = float(weights.sum(axis=0) @ _positions(width) / total)
    top = int(np.clip(round(MIDDLE * spec.height - row), 0, spec.height - height))
    left = int(np.clip(round(MIDDLE * spec.width - column), 0, spec.width - width))
    note("centred", "centred by mass in {} pixels", spec)
    return placed(small, top, left, spec)


def _positions(length: int) -> NDArray[np.float32]:
    return np.arange(length, dtype=np.float32)
