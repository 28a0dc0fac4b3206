"""Shapes that people do not write: frames, edges of windows, and spots."""

import numpy as np

from loupe.images.looks.parts import Parts, Region
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


def without_spots(parts: Parts) -> Parts:
    """Return the ink without spots and buttons of windows."""
    box_area = parts.height * parts.width
    foreign = (
        (parts.area > SOLID * box_area)
        & (parts.size < COMPACT * np.minimum(parts.height, parts.width))
        & (parts.size > MIN_SPOT * max(parts.shape))
    )
    if foreign.sum() >= BUTTONS:  # of a window; a stroke of a pen is not so regular
        foreign |= parts.extent > RECTANGULAR * box_area
    return parts.only(~foreign)


def without_frames(parts: Parts) -> Parts:
    """Return the ink without frames and edges of windows."""
    hollow = (parts.size > LARGE * max(parts.shape)) & (
        parts.area < HOLLOW * parts.height * parts.width
    )
    frames = [
        frame
        for part in np.flatnonzero(hollow).tolist()
        if (frame := _frame_in(parts.region(part), parts.shape)) is not None
    ]
    if not frames:
        return parts
    note("frames_removed", "removed a frame")
    mask = parts.mask()
    for frame in frames:
        mask[frame.box] &= ~frame.mask
    return Parts.of(mask)


def without_ends(parts: Parts) -> Parts:
    """Return the ink without what is left of lines at the edges of the picture."""
    height, width = parts.shape
    ends = parts.at_edges
    corners = (ends[:2].sum(axis=0) == 1) & (ends[2:].sum(axis=0) == 1)
    dropped = corners & (parts.size < LARGE * max(parts.shape))
    touching = ends.any(axis=0) & ~dropped & (parts.area > MIN_AREA)
    for part in np.flatnonzero(touching).tolist():
        is_whole = ends[:2, part].all() and width < NARROW * height  # a one, cut to its ink
        dropped[part] = not is_whole and _is_straight(parts.region(part), max(parts.shape))
    return parts.only(~dropped)


def _is_straight(part: Region, side: int) -> bool:
    """Return whether a part is a straight thin line."""
    rows, columns = part.mask.nonzero()
    spread = np.cov(rows, columns)
    return bool(np.linalg.eigvalsh(spread)[0] < (STRAIGHT * side) ** 2)


def _frame_in(region: Region, picture: tuple[int, int]) -> Region | None:
    """Return the pixels of a frame, which ink inside may touch, or none.

    A large one may be tilted, or drawn by hand. Of a window, two edges are enough.
    """
    box = region.bounds
    part = region.in_picture(picture)[box]
    covered = min(np.divide(part.shape, picture))  # of the picture's sides
    share, needed = (WINDOW, 2) if covered > FULL else (BELT, 4)
    belts = _belts(part, share)
    thick = [0, 0, 0, 0]
    if np.count_nonzero([belt.any(axis=0).mean() > ALONG for belt in belts]) >= needed:
        thick = [
            int(np.argmin(np.append(dilate(belt, 3, 3).mean(axis=1) > FULL, False)))
            for belt in belts
        ]
    if np.count_nonzero(thick) < needed:
        belts = _belts(part, BELT)
        thick = [len(belt) for belt in belts]
        if covered < PAGE or not _is_outline(part, belts):
            return None
    part[thick[0] : len(part) - thick[1], thick[2] : part.shape[1] - thick[3]] = False
    return Region(box, part)


def _belts(part: Mask, share: float) -> list[Mask]:
    """Return the belts along the four sides of a part's box, each from the outside inwards."""
    high, wide = (round(share * side) + 1 for side in part.shape)
    return [part[:high], part[: -high - 1 : -1], part.T[:wide], part.T[: -wide - 1 : -1]]


def _is_outline(part: Mask, belts: list[Mask]) -> bool:
    """Return whether a part lies along all four sides of its box."""
    high, wide = len(belts[0]), len(belts[2])
    inside = part[high:-high, wide:-wide].sum()
    return bool(
        min(belt.any(axis=0).mean() for belt in belts) > ALONG
        and inside < (1 - IN_BELT) * part.sum()
    )
