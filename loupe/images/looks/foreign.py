"""Shapes that people do not write: frames, edges of windows, and spots."""

import numpy as np

from loupe.images.looks.parts import Parts
from loupe.images.looks.shapes import Mask, dilate
from loupe.images.steps import note

LARGE = 0.3  # of the longer side of the picture
# MNIST's digits fill up to 0.67 of their box, unless it is narrow.
SOLID, COMPACT = 0.75, 2.0  # share of the box; its longer side, of the shorter
MIN_SPOT = 0.035  # of the longer side of the picture; less may be a piece of a broken stroke
# Up to 0.59 of a digit is that near the sides of its box.
BELT, IN_BELT, ALONG = 0.07, 0.7, 0.5  # of each side of the box; of the part; of each side
FULL = 0.85  # of a side; up to 0.67 of a digit's second longest side
WINDOW = 0.25  # of the picture; the bars of a window are thicker than a frame
PAGE = 0.6  # of both sides of the picture; a smaller outline is a zero
HOLLOW = 0.6  # share of the box
BUTTONS, RECTANGULAR = 2, 0.97  # parts; share of the box
MIN_AREA = 5  # pixels; less is a speck
NARROW = 0.6  # width of a picture, of its height
STRAIGHT = 0.012  # standard deviation across a line, of the longer side of the picture


def without_foreign(mask: Mask) -> Mask:
    """Return the pixels of ink, without frames, edges of windows and spots."""
    parts = Parts(mask)
    foreign = (
        (parts.area > SOLID * parts.height * parts.width)
        & (parts.size < COMPACT * np.minimum(parts.height, parts.width))
        & (parts.size > MIN_SPOT * max(mask.shape))
    )
    large = np.flatnonzero(~foreign & (parts.size > LARGE * max(mask.shape)))
    frames = np.zeros_like(mask)
    for part in large.tolist():
        box, pixels = parts.box(part), parts.pixels(part)
        if pixels.mean() < HOLLOW:
            covered = min(np.divide(pixels.shape, mask.shape))  # of the picture's sides
            frames[box] |= pixels & _frame_of(pixels, covered)
    if foreign.sum() >= BUTTONS:  # of a window; a stroke of a pen is not so regular
        foreign |= parts.area > RECTANGULAR * parts.height * parts.width
    if frames.any():
        note("frames_removed", "removed a frame")
    return mask & ~frames & ~parts.mask(foreign)


def without_ends(mask: Mask) -> Mask:
    """Return the pixels of ink, without what is left of lines at the edges of the picture."""
    parts = Parts(mask)
    height, width = mask.shape
    ends = np.stack([parts.top == 0, parts.bottom == height, parts.left == 0, parts.right == width])
    corners = (ends[:2].sum(axis=0) == 1) & (ends[2:].sum(axis=0) == 1)
    dropped = corners & (parts.size < LARGE * max(mask.shape))
    touching = ends.any(axis=0) & ~dropped & (parts.area > MIN_AREA)
    for part in np.flatnonzero(touching).tolist():
        is_whole = ends[:2, part].all() and width < NARROW * height  # a one, cut to its ink
        dropped[part] = not is_whole and _is_straight(parts.pixels(part), max(mask.shape))
    return mask & ~parts.mask(dropped) if dropped.any() else mask


def _is_straight(part: Mask, side: int) -> bool:
    """Return whether a part is a straight thin line."""
    rows, columns = part.nonzero()
    spread = np.cov(rows, columns)
    return bool(np.linalg.eigvalsh(spread)[0] < (STRAIGHT * side) ** 2)


def _frame_of(part: Mask, covered: float) -> Mask:
    """Return the pixels of a frame, which ink inside may touch, or none.

    A large one may be tilted, or drawn by hand. Of a window, two edges are enough.
    """
    share = WINDOW if covered > FULL else BELT
    high, wide = (round(share * side) + 1 for side in part.shape)
    belts = (part[:high], part[: -high - 1 : -1], part.T[:wide], part.T[: -wide - 1 : -1])
    thick = [
        int(np.argmin(np.append(dilate(belt, 3, 3).mean(axis=1) > FULL, False))) for belt in belts
    ]
    if np.count_nonzero(thick) < (2 if covered > FULL else 4):
        if covered < PAGE or not _is_outline(part):
            return np.zeros_like(part)
        high, wide = (round(BELT * side) + 1 for side in part.shape)
        thick = [high, high, wide, wide]
    frame = np.ones_like(part)
    frame[thick[0] : len(part) - thick[1], thick[2] : part.shape[1] - thick[3]] = False
    return frame


def _is_outline(part: Mask) -> bool:
    """Return whether a part lies along all four sides of its box."""
    high, wide = (round(BELT * side) + 1 for side in part.shape)
    inside = part[high:-high, wide:-wide].sum()
    belts = (part[:high], part[-high:], part[:, :wide].T, part[:, -wide:].T)
    return bool(
        inside < (1 - IN_BELT) * part.sum()
        and min(belt.any(axis=0).mean() for belt in belts) > ALONG
    )
