"""Straight thin lines from edge to edge: of ruled and squared paper, and of frames."""

import numpy as np

from loupe.images.looks.contrast import Contrast
from loupe.images.looks.shapes import Mask, dilate, erode
from loupe.images.steps import note

MIN_SIDE = 48  # pixels; in smaller pictures, a line could be a stroke
BLOCKS = 16  # a line is followed from block to block, and may move one pixel at each
FILLED = 0.65  # share of a block's width that belongs to a line
SLOPES = (-0.12, 0.12, -0.24, 0.24)  # at which tilted lines are looked for
FAINT = 0.5  # of the threshold of ink; lines are fainter
THICKEST = 0.05  # of the picture's longer side; thicker ones are bars of letters, or shadows
CROSSED = 2  # of four blocks near the edges
LIKE_INK = 0.8  # of the difference between lines and ink; more than that is ink on a line
BROAD = 0.03  # of the longer side; no line is so thick in both directions
DARKER = 1.3  # times the lines' contrast; ink that is so dark can be told from lines
REPAIRED = 0.02  # of the longer side; half the width of gaps in strokes that lines have crossed


def without_lines(contrast: Contrast, mask: Mask) -> Mask:
    """Return the pixels of ink, without lines; strokes that they cross are repaired."""
    if min(mask.shape) < MIN_SIDE:
        return mask
    visible = contrast.values > FAINT * contrast.threshold
    across, down = _tilted_lines(visible), _tilted_lines(visible.T).T
    broad = round(BROAD * max(mask.shape)) | 1
    strokes = dilate(erode(visible, broad, broad), broad, broad)
    lines = (across | down) & ~strokes
    if not lines.any():
        return mask
    note("lines_removed", "removed lines from edge to edge")
    rest = mask & ~lines
    if rest.any():
        tone, ink = np.median(contrast.values[lines]), np.median(contrast.values[rest])
        if ink > DARKER * tone:
            lines &= contrast.values <= tone + LIKE_INK * (ink - tone)
            rest = mask & ~lines
    gap = 2 * round(REPAIRED * max(mask.shape)) + 3
    closed_down = erode(dilate(rest, gap, 3), gap, 1)
    closed_across = erode(dilate(rest, 3, gap), 1, gap)
    return mask & (rest | across & closed_down | down & closed_across)


def _tilted_lines(mask: Mask) -> Mask:
    """Return the pixels of a mask on lines from the left to the right edge, tilted or not."""
    edge = max(2, mask.shape[1] // BLOCKS)
    if not (mask[:, :edge].any() and mask[:, -edge:].any()):
        return np.zeros_like(mask)
    lines = _lines(mask)
    if lines.any():
        return lines
    rows, columns = np.indices(mask.shape, np.intp)
    for slope in SLOPES:
        shift = np.round(slope * (columns - mask.shape[1] // 2)).astype(np.intp)
        level = (rows + shift) % len(mask)  # what leaves at the top comes back at the bottom
        found = _lines(np.take_along_axis(mask, level, axis=0))
        if found.any():
            np.put_along_axis(lines, level, found, axis=0)
            return lines
    return lines


def _lines(mask: Mask) -> Mask:
    """Return the pixels of a mask that lie on a line from the left to the right edge."""
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
