"""Symbols: which parts of the ink are one, and which are frames, specks, stains or others."""

import numpy as np

from loupe.images.looks.contrast import Contrast, split
from loupe.images.looks.parts import Parts, Region
from loupe.images.looks.shapes import Mask, dilate, erode, padded
from loupe.images.spec import UInt8Array
from loupe.images.steps import counted, is_recording, note

# Of the largest symbol's; a part that is as large is another symbol.
RIVAL_SIZE, RIVAL_WEIGHT = 0.55, 0.25
SPECK_AREA = 0.04  # of the area of the largest part
SPECK_SHARE = 0.04  # of the longer side of the picture; a digit is larger
FAINTEST_PEN = 20  # of 255; what is fainter is paper, or blocks of JPEG
SHADE = 160  # of 255; light and stains do not make paper that much darker than its surroundings
# Of the contrast, between pixels at the edge of a stroke, without what grain adds: pencil and chalk
# have 0.4 and more also in blurred photos, most stains and wiped chalk less than 0.15.
SHARPNESS = 0.25
GRAIN = 3  # standard deviations between the extremes of nine pixels
LINE = 0.04  # of the longer side of the picture; grain hides the edges of thinner faint lines
# Of the longer side of a symbol; no stroke is so broad, nor are the filled loops of a marker.
BLOT = 0.5
SHADOW_SHARE = 0.07  # of the longer side; no stroke is so broad where it is faint
DEEPER = 1.4  # times the contrast of the shadow


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


def shadow_level(values: UInt8Array, symbol: Region) -> int | None:
    """Return the contrast of a shadow that a symbol contains, or `None`.

    The shadow is broad, and ink in it is much darker.
    """
    near = values[symbol.box]
    counts = np.bincount(near[symbol.mask], minlength=256)
    level = split(counts)
    sums = counts * np.arange(256)
    fainter, darker = counts[: level + 1].sum(), counts[level + 1 :].sum()
    if (
        not (fainter and darker)
        or sums[level + 1 :].sum() / darker < DEEPER * sums[: level + 1].sum() / fainter
    ):
        return None
    shadow = symbol.mask & (near <= level)
    return level if _holds_square(shadow, SHADOW_SHARE * max(values.shape)) else None


def without_shade(symbols: list[Region], contrast: Contrast) -> list[Region]:
    """Return the symbols without stains and uneven light; none if the first of them is a speck."""
    if symbols and max(symbols[0].size) < SPECK_SHARE * max(contrast.values.shape):
        return []
    return [symbol for symbol in symbols if not _is_shade(contrast, symbol)]


def _is_shade(contrast: Contrast, strokes: Region) -> bool:
    """Return whether a symbol is a stain, or ground that light makes uneven.

    Shading and wiped ink have no sharp edge. A shadow in a corner lies along the edges of the
    picture.
    """
    values, part = contrast.values, strokes.mask
    height, width = strokes.size
    if _holds_square(padded(part, 1), BLOT * max(height, width)):
        return True
    tone = strokes.tone(values)
    if tone < FAINTEST_PEN:
        return True
    if tone < SHADE:
        near = values[strokes.box]
        outline = part & ~erode(part, 3, 3)
        steps = (dilate(near, 3, 3) - erode(near, 3, 3))[outline]
        is_broad = _holds_square(part, LINE * max(values.shape))
        if np.median(steps) < SHARPNESS * tone + is_broad * GRAIN * contrast.grain:
            return True
    edges = strokes.in_picture(values.shape)
    along = max(
        max(edges[0].sum(), edges[-1].sum()) / width,
        max(edges[:, 0].sum(), edges[:, -1].sum()) / height,
    )
    is_whole = height >= 0.9 * values.shape[0] and width >= 0.9 * values.shape[1]
    return bool(along > 0.8 and not is_whole and part.sum() > 0.4 * height * width)


def _holds_square(mask: Mask, side: float) -> bool:
    """Return whether a mask has a square of a side, in pixels, that is rounded to an odd number."""
    size = round(side) | 1
    return bool(erode(mask, size, size).any())
