"""Symbols: which parts of the ink are one, and which are frames, specks or other symbols."""

import numpy as np

from loupe.images.looks.parts import Parts, Region
from loupe.images.looks.shapes import Mask
from loupe.images.spec import UInt8Array
from loupe.images.steps import counted, is_recording, note

# Of the largest symbol's; a part that is as large is another symbol.
RIVAL_SIZE, RIVAL_WEIGHT = 0.55, 0.25
SPECK_AREA = 0.04  # of the area of the largest part


def choose_symbols(parts: Parts, contrast: UInt8Array, single: bool) -> list[Region]:
    """Return the pixels of each symbol, the largest first, or of all together unless `single`."""
    if parts.count <= 1:
        return [parts.region()] if parts.count else []
    frames = _frames(parts)
    kept = ~frames
    touching = parts.at_edges.any(axis=0)
    weights = np.where(kept, parts.weigh(contrast), 0)
    inner = np.where(touching, 0, weights)
    if inner.max() >= 0.25 * weights.max():
        kept, weights = kept & ~touching, inner
    best = int(weights.argmax())
    kept &= parts.area >= SPECK_AREA * parts.area[best]
    if not single:
        _note_dropped(parts, frames, kept)
        return [parts.only(kept).region()]
    is_rival = (parts.size >= RIVAL_SIZE * parts.size[best]) & (
        weights >= RIVAL_WEIGHT * weights[best]
    )
    symbols, left = [], kept
    for main in (best, *np.flatnonzero(kept & is_rival)):
        if left[main]:
            symbol = _belonging(parts, left, int(main))
            symbols.append(symbol)
            left = left & ~symbol
    _note_dropped(parts, frames, kept & ~left)
    return [parts.only(symbol).region() for symbol in symbols]


def _note_dropped(parts: Parts, frames: Mask, kept: Mask) -> None:
    """Record how many parts are not kept."""
    if not is_recording():
        return
    if count := int(frames.sum()):
        note("frames_removed", "removed {}", counted(count, "frame"))
    if count := int((~kept & ~frames).sum()):
        note("specks_removed", "removed {}", counted(count, "speck"))


def _frames(parts: Parts) -> Mask:
    """Return which parts are thin outlines around another part of some size."""
    frames = np.zeros(parts.count, bool)
    for part in np.flatnonzero(parts.size > 0.5 * max(parts.shape)):
        inside = (
            (parts.top > parts.top[part])
            & (parts.bottom < parts.bottom[part])
            & (parts.left > parts.left[part])
            & (parts.right < parts.right[part])
            & (parts.size > 0.2 * parts.size[part])
        )
        box = parts.height[part] * parts.width[part]
        frames[part] = inside.any() and parts.area[part] < 0.35 * box
    return frames


def _belonging(parts: Parts, kept: Mask, best: int) -> Mask:
    """Return which parts belong to the best one: near, or a bar that is not far, as of a five."""
    below = np.maximum(parts.top - parts.bottom[best], parts.top[best] - parts.bottom)
    beside = np.maximum(parts.left - parts.right[best], parts.left[best] - parts.right)
    distance = np.maximum(np.maximum(below, beside), 0)
    size = parts.size[best]
    near = distance <= np.where(beside < 0, 0.25, 0.15) * size  # strokes above each other, broken
    flat = (parts.height < 0.4 * parts.height[best]) | (parts.width < 0.4 * parts.width[best])
    bar = (distance <= 0.5 * size) & flat & (parts.area >= 0.08 * parts.area[best])
    small_ones = kept & ~near & (parts.size < 0.4 * size)
    belonging: Mask = kept & near
    if small_ones.sum() <= 2:  # more are a row of buttons
        belonging |= kept & bar
    return belonging
