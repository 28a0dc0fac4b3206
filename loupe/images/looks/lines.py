"""Straight thin lines from edge to edge: of ruled and squared paper, and of frames."""

import numpy as np

from loupe.images.looks.contrast import Contrast
from loupe.images.looks.parts import Parts
from loupe.images.looks.shapes import Mask, dilate, erode
from loupe.images.steps import note

MIN_SIDE = 48  # pixels; in smaller pictures, a line could be a stroke
BLOCKS = 16  # a line is followed from block to block, and may move one pixel at each
FILLED = 0.65  # share of a block's width that belongs to a line
SLOPES = (0.0, -0.12, 0.12, -0.24, 0.24)  # at which lines are looked for
FAINT = 0.5  # of the threshold of ink; lines are fainter
THICKEST = 0.05  # of the picture's longer side; thicker ones are bars of letters, or shadows
CROSSED = 2  # of four blocks near the edges
LIKE_INK = 0.8  # of the difference between lines and ink; more than that is ink on a line
BROAD = 0.03  # of the longer side; no line is so thick in both directions
DARKER = 1.3  # times the lines' contrast; ink that is so dark can be told from lines
REPAIRED = 0.02  # of the longer side; half the width of gaps in strokes that lines have crossed


def without_lines(contrast: Contrast, ink: Parts) -> Parts:
    """Return the ink without lines; strokes that they cross are repaired."""
    side = max(ink.shape)
    if min(ink.shape) < MIN_SIDE:
        return ink
    visible = contrast.values > FAINT * contrast.threshold
    across, down = _find(visible)
    lines = across | down
    if lines.any():
        broad = round(BROAD * side) | 1
        lines &= ~dilate(erode(visible, broad, broad), broad, broad)
    if not lines.any():
        return ink
    mask = ink.mask()
    note("lines_removed", "removed lines from edge to edge")
    rest = mask & ~lines
    if rest.any():
        tone, darker = np.median(contrast.values[lines]), np.median(contrast.values[rest])
        if darker > DARKER * tone:
            dark = lines & (contrast.values > tone + LIKE_INK * (darker - tone))
            # Some lines of squared paper are darker than others.
            lines &= ~dark | np.logical_or(*_find(dark))
            rest = mask & ~lines
    gap = 2 * round(REPAIRED * side) + 3
    closed_down = erode(dilate(rest, gap, 3), gap, 1)
    closed_across = erode(dilate(rest, 3, gap), 1, gap)
    return Parts.of(mask & (rest | across & closed_down | down & closed_across))


def _find(mask: Mask) -> tuple[Mask, Mask]:
    """Return the pixels of a mask on lines across and down it, of the same slope."""
    for slope in SLOPES:
        across, down = _lines(mask, slope), _lines(mask.T, -slope).T
        if across.any() or down.any():
            break
    return across, down


def _lines(mask: Mask, slope: float) -> Mask:
    """Return the pixels of a mask that lie on lines from the left to the right edge."""
    edge = max(2, mask.shape[1] // BLOCKS)
    covered = np.asarray(mask.any(axis=0))
    if not (
        covered[:edge].any()
        and covered[-edge:].any()
        and np.count_nonzero(covered) >= FILLED * len(covered)
    ):
        return np.zeros_like(mask)
    if not slope:
        return _level_lines(mask)
    rows, columns = np.indices(mask.shape, np.intp)
    shift = np.round(slope * (columns - mask.shape[1] // 2)).astype(np.intp)
    level = (rows + shift) % len(mask)  # what leaves at the top comes back at the bottom
    lines = np.zeros_like(mask)
    np.put_along_axis(lines, level, _level_lines(np.take_along_axis(mask, level, 0)), axis=0)
    return lines


def _level_lines(mask: Mask) -> Mask:
    """Return the pixels of a mask that lie on level lines from the left to the right edge."""
    width = mask.shape[1]
    starts = np.arange(BLOCKS) * width // BLOCKS
    widths = np.diff(starts, append=width)
    filled = np.add.reduceat(dilate(mask, 3, 1), starts, axis=1, dtype=np.intp).T
    on = filled >= FILLED * widths[:, np.newaxis]  # (blocks, height)
    thick = round(THICKEST * max(mask.shape)) + 3 | 1
    outer = on[[1, 2, -3, -2]].T  # strokes cross a line at few of these blocks, bars at all
    on &= dilate(erode(outer, thick, 1), thick, 1).sum(axis=1) <= CROSSED
    on[1:-1] |= _near(on[:-2]) & _near(on[2:])  # ink of the same tone may hide a block
    on[[0, -1]] = True  # frames begin inside the picture
    for blocks in (range(1, BLOCKS), range(BLOCKS - 2, -1, -1)):
        for block in blocks:
            before = block - 1 if blocks.step > 0 else block + 1
            on[block] &= _near(on[before])
    return np.repeat(on, widths, axis=0).T & mask


def _near(on: Mask) -> Mask:
    """Mark the neighbours, along the last axis, of those that are marked."""
    near = on.copy()
    near[..., 1:] |= on[..., :-1]
    near[..., :-1] |= on[..., 1:]
    return near
