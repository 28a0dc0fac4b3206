"""Ink as MNIST has it: strokes of a pen's width in a box, with the centre of mass in the middle."""

from functools import lru_cache

import numpy as np

from loupe.images.looks.parts import Region
from loupe.images.looks.scaling import magnified, placed, shrunk
from loupe.images.looks.shapes import Mask, bounds, dilate, erode, padded
from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.images.steps import note

# Pixels of an MNIST image, and the share of its side that the box with the digit takes. Source:
# LeCun et al., "The MNIST database".
MNIST_SIDE = 28
BOX_SHARE = 20 / MNIST_SIDE
FINE = 4  # times the box is enough to judge strokes
# Widths of strokes, of the box. MNIST's own are two to three pixels of 20.
THINNEST, THICKEST = 2.2 / 20, 4 / 20
_LEVELS = np.arange(256, dtype=np.float32)
FULL = 80  # percentile of the contrast of ink that becomes 255
EMPTY = 0.35  # of the threshold of ink; less contrast than that becomes 0
# Positions of the centre of mass in the images of MNIST, all 70,000: 13.48 to 14.50 of 28.
ROUNDING = 0.501  # to the nearest level; processors differ by less at halves, which are frequent
MIDDLE, TOLERANCE = 14 / MNIST_SIDE, 0.6 / MNIST_SIDE
MIN_BOX_SHARE = 18 / MNIST_SIDE  # in MNIST, 19 or 20 pixels


def is_centred(image: UInt8Array) -> bool:
    """Return whether ink, light on dark, is as large as MNIST's and centred as its images are."""
    height, width = image.shape
    total, row, column = _sums(image)
    if not total:
        return True  # there is nothing to centre
    off_row, off_column = row / total / height - MIDDLE, column / total / width - MIDDLE
    if max(abs(off_row), abs(off_column)) > TOLERANCE:
        return False
    longer = max(_extent(image.tobytes(), width), _extent(image.T.tobytes(), height))
    side = min(height, width)
    return bool(int(MIN_BOX_SHARE * side) <= longer <= round(BOX_SHARE * side))


def _sums(image: UInt8Array) -> tuple[float, float, float]:
    """Return the sums of an image's values, alone and times their row and their column."""
    sums = image.ravel().astype(np.float32) @ _moments(*image.shape)
    total, row, column = sums.tolist()
    return total, row, column


@lru_cache
def _moments(height: int, width: int) -> Float32Array:
    """Return 1, the row and the column of each pixel, shape `(height * width, 3)`."""
    rows, columns = np.indices((height, width), np.float32).reshape(2, -1)
    return np.stack([np.ones_like(rows), rows, columns], axis=1)


def _extent(pixels: bytes, stride: int) -> int:
    """Return the number of rows from the first to the last with ink."""
    first = len(pixels) - len(pixels.lstrip(b"\0"))
    last = len(pixels.rstrip(b"\0")) - 1
    return last // stride - first // stride + 1


def draw_strokes(
    contrast: UInt8Array, strokes: Region, threshold: float, spec: ImageSpec
) -> UInt8Array:
    """Return the image of a model with the ink of some strokes."""
    side = round(BOX_SHARE * min(spec.height, spec.width))
    ink = _full_contrast(contrast[strokes.box], strokes.mask, threshold)
    ink = _set_width(magnified(ink, FINE * side))
    small = shrunk(ink[bounds(ink > int(ink.max()) // 5)], side)
    note("resized", "resized to {} × {} pixels", *small.shape)
    return _place_by_mass(np.asarray(small * (255 / small.max()) + ROUNDING, np.uint8), spec)


def _full_contrast(values: UInt8Array, mask: Mask, threshold: float) -> UInt8Array:
    """Cut to the ink, and stretch its contrast to 0..255."""
    of_ink = values[mask]
    rank = (len(of_ink) - 1) * FULL // 100
    empty, full = EMPTY * threshold, float(np.partition(of_ink, rank)[rank])
    stretched = (_LEVELS - np.float32(empty)) * (255 / (full - empty))
    ink = stretched.clip(0, 255).astype(np.uint8)[values] * dilate(mask, 3, 3)
    return ink[bounds(ink > 0)]


def _set_width(ink: UInt8Array) -> UInt8Array:
    """Widen thin strokes, which would fade when the picture shrinks, and thin thick ones."""
    side = max(ink.shape)
    inked = ink > 127
    above_and_below = inked[:-2] & inked[1:-1] & inked[2:]
    inner = above_and_below[:, :-2] & above_and_below[:, 1:-1] & above_and_below[:, 2:]
    area = int(np.count_nonzero(inked))
    outline = area - int(
        np.count_nonzero(inner)
    )  # pixels of ink that touch the ground, or the edge
    width = 2 * area / max(1, outline)
    if (radius := round((THINNEST * side - width) / 2)) > 0:
        note(
            "strokes_thickened",
            "thickened the strokes to {:.1f} times",
            1 + 2 * radius / max(1, width),
        )
        roomy = padded(ink, radius)  # strokes at the edge grow outwards, too
        return dilate(roomy, 2 * radius + 1, 2 * radius + 1)
    if (radius := round((width - THICKEST * side) / 2)) > 0:
        note("strokes_thinned", "thinned the strokes to {:.1f} times", 1 - 2 * radius / width)
        return erode(padded(ink, 1), 2 * radius + 1, 2 * radius + 1)
    return ink


def _place_by_mass(small: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Place a small picture in the image, uncut, with the centre of mass in the middle."""
    height, width = small.shape
    total, row, column = _sums(small)
    top = min(max(0, round(MIDDLE * spec.height - row / total)), spec.height - height)
    left = min(max(0, round(MIDDLE * spec.width - column / total)), spec.width - width)
    note("centred", "centred by mass in {} pixels", spec)
    return placed(small, top, left, spec)
