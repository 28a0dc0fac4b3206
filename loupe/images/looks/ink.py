"""Ink: find the strokes that belong together, and draw them as MNIST's are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from loupe.errors import InvalidImage
from loupe.images.looks.contrast import TINY_SIDE, Contrast, contrast_of
from loupe.images.looks.foreign import without_ends, without_frames, without_spots
from loupe.images.looks.lines import without_lines
from loupe.images.looks.parts import Parts, Region
from loupe.images.looks.scaling import reduced, resized
from loupe.images.looks.shapes import bounds, dilate
from loupe.images.looks.sheet import cut_to_sheet
from loupe.images.looks.strokes import draw_strokes
from loupe.images.looks.symbols import choose_symbols, shadow_level, without_shade
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.images.steps import is_recording, note, note_crop

VIEW_SIDE = 200  # pixels; larger pictures shrink before the ink is found
FEW_PIXELS = 48  # of the ink's longer side; it is looked at again, in the picture before it shrank
SMALL_SIDE = 40  # pixels; smaller pictures show neither a table nor shadows
HIDDEN = 0.7  # of the threshold of ink; below it, a frame hid fainter ink
MAX_SYMBOLS = 100  # of a picture
MAX_BOXES = 20  # in the message
FAINTER = 0.5  # of the ink's contrast; what is fainter is not of the same pen


Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom, as fractions of a picture's width and height."""
Symbols: TypeAlias = list[tuple[UInt8Array, Box]]
"""An image of a model and the box of each symbol in a picture."""


@dataclass(frozen=True)
class Ink:
    """The strokes in a picture.

    Attributes:
        contrast: How much each pixel is ink.
        symbols: Pixels that belong to each symbol, at least one symbol. The largest is the first.
        threshold: Contrast above which a pixel is ink.
    """

    contrast: UInt8Array
    symbols: list[Region]
    threshold: float


def draw_ink(grey: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Return the image of a model, black if there is no ink in the picture.

    Raises:
        InvalidImage: If the picture has several symbols, and the model reads one.
    """
    page = _read(grey, spec.single)
    if page is None:
        note("blank", "no ink found")
        return np.zeros(spec.shape, np.uint8)
    symbol, *others = page.ink.symbols
    if others:
        raise _several([page.box(each) for each in page.ink.symbols])
    if is_recording():
        left, top, right, bottom = page.box(symbol)
        note_crop(right - left, bottom - top, "the strokes")
    return page.draw(symbol, spec)


def draw_each(grey: UInt8Array, spec: ImageSpec) -> Symbols:
    """Return the image of each symbol in a picture and its box, line by line, left to right.

    Raises:
        InvalidImage: If there are more than `MAX_SYMBOLS`.
    """
    page = _read(grey, single=True)
    if page is None:
        return []
    found = [(page.box(symbol), symbol) for symbol in page.ink.symbols]
    if len(found) > MAX_SYMBOLS:
        raise _several([box for box, _ in found])
    return [(page.draw(found[each][1], spec), found[each][0]) for each in _in_order(found)]


@dataclass(frozen=True)
class _Page:
    """The paper in a picture, and its ink.

    Attributes:
        grey: The paper.
        left, top: Where it is in the picture, in pixels.
        shape: Height and width of the picture.
        view: Shape of the copy of the paper in which the ink was found.
        ink: The strokes.
    """

    grey: UInt8Array
    left: int
    top: int
    shape: tuple[int, int]
    view: tuple[int, int]
    ink: Ink

    def box(self, symbol: Region) -> Box:
        """Return the box of a symbol in the picture."""
        scale = max(self.grey.shape) / max(self.view)
        height, width = self.shape
        rows, columns = symbol.bounds
        return (
            (self.left + scale * columns.start) / width,
            (self.top + scale * rows.start) / height,
            min(1.0, (self.left + scale * columns.stop) / width),
            min(1.0, (self.top + scale * rows.stop) / height),
        )

    def draw(self, symbol: Region, spec: ImageSpec) -> UInt8Array:
        """Return the image of a symbol."""
        contrast, threshold = self.ink.contrast, self.ink.threshold
        if max(self.view) < max(self.grey.shape):
            contrast, symbol, threshold = _look_closer(self.grey, contrast, symbol, threshold)
        return draw_strokes(contrast, symbol, threshold, spec)


def _read(grey: UInt8Array, single: bool) -> _Page | None:
    """Find the ink in a picture; return `None` if it is blank."""
    paper, top, left = cut_to_sheet(grey) if max(grey.shape) >= SMALL_SIDE else (grey, 0, 0)
    view = reduced(paper, VIEW_SIDE)
    if max(paper.shape) < TINY_SIDE:
        view = resized(paper, 2 * max(paper.shape))
    ink = find_ink(view, single)
    return None if ink is None else _Page(paper, left, top, grey.shape, view.shape, ink)


def find_ink(grey: UInt8Array, single: bool) -> Ink | None:
    """Return the strokes in a picture, as one symbol unless `single`; `None` if it is blank."""
    contrast = contrast_of(grey)
    is_large = max(grey.shape) >= SMALL_SIDE
    parts = Parts.of(contrast.mask)
    if is_large:
        contrast, parts = _without_foreign(contrast, parts)
    values, threshold = contrast.values, contrast.threshold
    if is_large and parts.count:
        parts = without_ends(without_lines(contrast, parts))
    symbols = choose_symbols(parts, values, single)
    if symbols and is_large and (level := shadow_level(values, symbols[0])):
        parts = Parts.of(parts.mask() & (values > level))
        symbols = choose_symbols(parts, values, single)
    if is_large:
        symbols = without_shade(symbols, contrast)
    if not symbols:
        return None
    darker = FAINTER * symbols[0].tone(values)
    if darker <= threshold:
        return Ink(values, symbols, threshold)
    is_strong = dilate(values, 3, 3) > darker
    if any((symbol.mask & ~is_strong[symbol.box]).any() for symbol in symbols):
        strong = choose_symbols(Parts.of(parts.mask() & is_strong), values, single)
        symbols = without_shade(strong, contrast) or symbols
    return Ink(values, symbols, darker)


def _without_foreign(contrast: Contrast, parts: Parts) -> tuple[Contrast, Parts]:
    """Remove spots and frames, and find the fainter ink that a dark frame hides."""
    parts = without_spots(parts)
    kept = without_frames(parts)
    if kept is parts:
        return contrast, parts
    frames = parts.mask() & ~kept.mask()
    rest = contrast.without(frames)
    if rest.threshold > HIDDEN * contrast.threshold:
        return contrast, kept
    parts = Parts.of(contrast.values > rest.threshold)
    apart = parts.weigh(frames.astype(np.uint8)) == 0
    parts = without_spots(parts.only(apart))
    return (rest, parts) if parts.area.sum() > kept.area.sum() else (contrast, kept)


def _in_order(found: Sequence[tuple[Box, Region]]) -> list[int]:
    """Return the indices of symbols in reading order: line by line, from left to right."""
    lines: list[list[int]] = []
    for each in sorted(range(len(found)), key=lambda each: found[each][0][1] + found[each][0][3]):
        _, top, _, bottom = found[each][0]
        # The next line begins where a symbol's middle is below the last symbol.
        if not lines or (top + bottom) / 2 > found[lines[-1][-1]][0][3]:
            lines.append([])
        lines[-1].append(each)
    return [each for line in lines for each in sorted(line, key=lambda each: found[each][0][0])]


def _several(boxes: list[Box]) -> InvalidImage:
    """Return the error for a picture of several symbols."""
    shown = "; ".join(" ".join(f"{edge:.2f}" for edge in box) for box in sorted(boxes)[:MAX_BOXES])
    return InvalidImage(
        f"The picture shows {len(boxes)} symbols; send each in a separate picture, or ask for "
        "each with split=true. Left, top, right and bottom, as fractions of the picture: "
        f"{shown}.",
        code="several_objects",
    )


def _look_closer(
    grey: UInt8Array, contrast: UInt8Array, symbol: Region, threshold: float
) -> tuple[UInt8Array, Region, float]:
    """Find a symbol of few pixels again, in the larger picture."""
    size = max(symbol.size)
    if size >= FEW_PIXELS:
        return contrast, symbol, threshold
    factor = -(-max(grey.shape) // VIEW_SIDE)
    symbol_mask = symbol.in_picture(contrast.shape)
    box = bounds(symbol_mask, margin=size // 2)
    near = dilate(symbol_mask[box], 3, 3)
    part = reduced(
        grey[tuple(slice(side.start * factor, side.stop * factor) for side in box)], VIEW_SIDE
    )
    finer = contrast_of(part)
    near = np.asarray(Image.fromarray(near).resize(part.shape[::-1], Image.Resampling.NEAREST))
    found = finer.mask & near
    if not found.any():
        return contrast, symbol, threshold
    return finer.values, Parts.of(found).region(), finer.threshold
