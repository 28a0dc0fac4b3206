"""Ink: find the strokes that belong together, and draw them as MNIST's are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from loupe.errors import InvalidImage
from loupe.images.looks.contrast import TINY_SIDE, Contrast, contrast_of
from loupe.images.looks.lines import without_lines
from loupe.images.looks.parts import Parts
from loupe.images.looks.scaling import reduced, resized
from loupe.images.looks.shapes import Mask, bounds, dilate, erode
from loupe.images.looks.sheet import cut_to_sheet
from loupe.images.looks.strokes import draw_strokes
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.images.steps import counted, is_recording, note, note_crop

VIEW_SIDE = 200  # pixels; larger pictures shrink before the ink is found
FEW_PIXELS = 48  # of the ink's longer side; it is looked at again, in the picture before it shrank
SMALL_SIDE = 40  # pixels; smaller pictures show neither a table nor shadows
SPECK_SHARE = 0.04  # of the longer side of the picture; a digit is larger
# Of the largest symbol's; a part that is as large is another symbol.
RIVAL_SIZE, RIVAL_WEIGHT = 0.55, 0.25
MAX_BOXES = 20  # in the message
SPECK_AREA = 0.04  # of the area of the largest part
SHARPNESS = 0.2  # of the contrast, between neighbouring pixels at the edge of a stroke
FAINTER = 0.5  # of the ink's contrast; what is fainter is not of the same pen


Box: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True)
class Ink:
    """The strokes in a picture.

    Attributes:
        contrast: How much each pixel is ink.
        mask: Pixels that belong to the strokes; at least one.
        threshold: Contrast above which a pixel is ink.
        others: Boxes of other symbols, `(left, top, right, bottom)` in pixels.
    """

    contrast: UInt8Array
    mask: Mask
    threshold: float
    others: list[Box]


def draw_ink(grey: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Return the image of a model, black if there is no ink in the picture.

    Raises:
        InvalidImage: If the picture has several symbols, and the model reads one.
    """
    sheet, top, left = cut_to_sheet(grey) if max(grey.shape) >= SMALL_SIDE else (grey, 0, 0)
    view = reduced(sheet, VIEW_SIDE)
    if max(sheet.shape) < TINY_SIDE:
        view = resized(sheet, 2 * max(sheet.shape))
    ink = find_ink(view, spec.single)
    if ink is None:
        note("blank", "no ink found")
        return np.zeros(spec.shape, np.uint8)
    scale = max(sheet.shape) / max(view.shape)
    if ink.others:
        boxes = [
            (left + scale * west, top + scale * north, left + scale * east, top + scale * south)
            for west, north, east, south in [_box(ink.mask), *ink.others]
        ]
        raise _several(boxes, *grey.shape)
    if is_recording():
        west, north, east, south = _box(ink.mask)
        height, width = grey.shape
        note_crop(scale * (east - west) / width, scale * (south - north) / height, "the strokes")
    if max(view.shape) < max(sheet.shape):
        ink = _look_closer(sheet, ink, spec.single)
    return draw_strokes(ink.contrast, ink.mask, ink.threshold, spec)


def find_ink(grey: UInt8Array, single: bool) -> Ink | None:
    """Return the strokes in a picture, or of its largest symbol; `None` if it is blank."""
    contrast = contrast_of(grey)
    mask = without_lines(contrast)
    strokes, others = _chosen(mask, contrast, single)
    is_large = max(grey.shape) >= SMALL_SIDE
    if strokes is None or (is_large and _is_shade(contrast.values, strokes)):
        return None
    values = np.sort(contrast.values[strokes])
    darker = FAINTER * float(values[len(values) // 2])
    if darker <= contrast.threshold:
        return Ink(contrast.values, strokes, contrast.threshold, others)
    strong = mask & (dilate(contrast.values, 3, 3) > darker)
    if (strong != mask).any():
        found, others = _chosen(strong, contrast, single)
        strokes = strokes if found is None else found
    return Ink(contrast.values, strokes, darker, others)


def _is_shade(values: UInt8Array, strokes: Mask) -> bool:
    """Return whether strokes are a speck, or a part of the ground that light makes uneven.

    Shading has no sharp edge. A shadow in a corner lies along the edges of the picture.
    """
    box = bounds(strokes, margin=1)
    near, part = values[box], strokes[box]
    outline = part & ~erode(part, 3, 3)
    steps = (dilate(near, 3, 3) - erode(near, 3, 3))[outline]
    if len(steps) and np.median(steps) < SHARPNESS * np.median(near[part]):
        return True
    rows, columns = bounds(strokes)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if max(height, width) < SPECK_SHARE * max(strokes.shape):
        return True
    along = max(
        max(strokes[0].sum(), strokes[-1].sum()) / width,
        max(strokes[:, 0].sum(), strokes[:, -1].sum()) / height,
    )
    is_whole = height >= 0.9 * strokes.shape[0] and width >= 0.9 * strokes.shape[1]
    return bool(along > 0.8 and not is_whole and strokes.sum() > 0.4 * height * width)


def _box(mask: Mask) -> Box:
    rows, columns = bounds(mask)
    return columns.start, rows.start, columns.stop, rows.stop


def _several(boxes: Sequence[tuple[float, ...]], height: int, width: int) -> InvalidImage:
    """Return the error for a picture of several symbols; their boxes are in pixels."""
    shown = "; ".join(
        f"{left / width:.2f} {top / height:.2f} {right / width:.2f} {bottom / height:.2f}"
        for left, top, right, bottom in sorted(boxes)[:MAX_BOXES]
    )
    return InvalidImage(
        f"The picture shows {len(boxes)} symbols; send each in a picture of its own. Left, top, "
        f"right and bottom, as fractions of the picture: {shown}.",
        code="several_objects",
    )


def _look_closer(grey: UInt8Array, ink: Ink, single: bool) -> Ink:
    """Find ink of few pixels again, in the larger picture."""
    rows, columns = bounds(ink.mask)
    size = max(rows.stop - rows.start, columns.stop - columns.start)
    if size >= FEW_PIXELS:
        return ink
    factor = -(-max(grey.shape) // VIEW_SIDE)
    margin = size // 2
    top, left = max(0, rows.start - margin), max(0, columns.start - margin)
    part = grey[
        top * factor : (rows.stop + margin) * factor,
        left * factor : (columns.stop + margin) * factor,
    ]
    return find_ink(reduced(part, VIEW_SIDE), single) or ink


def _chosen(mask: Mask, contrast: Contrast, single: bool) -> tuple[Mask | None, list[Box]]:
    """Return the pixels of the parts that belong to the strokes, and boxes of other symbols."""
    parts = Parts(mask)
    if parts.count <= 1:
        return mask if parts.count else None, []
    frames = _frames(parts)
    kept = ~frames
    touching = (
        (parts.top == 0)
        | (parts.left == 0)
        | (parts.bottom == mask.shape[0])
        | (parts.right == mask.shape[1])
    )
    weights = np.where(kept, parts.weigh(contrast.values), 0)
    inner = np.where(touching, 0, weights)
    if inner.max() >= 0.25 * weights.max():
        kept, weights = kept & ~touching, inner
    best = int(weights.argmax())
    kept &= parts.area >= SPECK_AREA * parts.area[best]
    if not single:
        _note_dropped(parts, frames, kept)
        return parts.mask(kept), []
    belonging = _belonging(parts, kept, best)
    _note_dropped(parts, frames, belonging)
    rivals = (
        kept
        & ~belonging
        & (parts.size >= RIVAL_SIZE * parts.size[best])
        & (weights >= RIVAL_WEIGHT * weights[best])
    )
    edges = np.stack([parts.left, parts.top, parts.right, parts.bottom], axis=1)
    return parts.mask(belonging), cast("list[Box]", edges[rivals].tolist())


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
